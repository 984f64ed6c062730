"""How negguide gets between a pipeline and its models: views of a pipeline, hooks on a model, intercepted attention."""
