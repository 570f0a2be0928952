"""The sink: takes the events of KServe's payload logger, and answers once they are durable."""
