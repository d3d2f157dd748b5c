"""What joins training programs written for other libraries to a workload's context; each module needs its library.

``pytorch`` is for plain loops, ``huggingface`` for the ``Trainer`` of transformers, ``lightning`` for Lightning's. They
ask nothing of the platform but the context, so they work alone, on a cluster and in a test alike.
"""
