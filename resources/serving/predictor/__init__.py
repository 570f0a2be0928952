"""The predictor process: KServe's ModelServer with an MLflow model, every answer logged before it leaves.

    python -m resources.serving.predictor --model-dir DIR --digest SHA256 --model-name NAME --model-version V \\
        --revision REV --port P --log-dir DIR --durability process|power --allow KIND

Open Inference Protocol v2 over REST, on loopback, no gRPC. `columns` reads requests, `tensors` writes
answers, `logged_model` is the KServe model, `guard` keeps what is loaded from running code, `server` is the KServe server, `__main__` the command.
"""
