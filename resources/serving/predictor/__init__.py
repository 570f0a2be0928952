"""The predictor process: KServe's ModelServer with an MLflow model, every answer logged before it leaves.

    python -m resources.serving.predictor --model-dir DIR --model-name NAME --model-version V \\
        --revision REV --port P --log-dir DIR --durability process|power

Open Inference Protocol v2 over REST, on loopback, no gRPC. `columns` reads requests, `tensors` writes
answers, `logged_model` is the KServe model, `server` is the KServe server, `__main__` the command.
"""
