"""The predictor process: KServe's ModelServer with an MLflow model, every answer logged before it leaves."""
