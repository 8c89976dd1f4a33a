"""Many runs: a grid of settings, trained in parallel and compared."""
