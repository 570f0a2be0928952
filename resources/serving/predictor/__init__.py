"""The predictor process: KServe's ModelServer with an MLflow model, every answer logged before it leaves.

    python -m resources.serving.predictor --model-dir DIR --digest SHA256 --model-name NAME --model-version V \\
        --revision REV --port P --log-dir DIR --durability process|power --allow KIND

Open Inference Protocol v2 over REST, on loopback, no gRPC.
"""
