"""One prompt sampler for several trainers, over HTTP: `dps-pyro serve`, and the client that takes a sampler's place."""
