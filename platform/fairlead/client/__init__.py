"""The SDK: submit specs and follow experiments over HTTP. Loads neither Ray nor torch, MLflow or numpy.

    client = Client()                                # the embedded stack of this machine
    experiment = client.submit("diabetes_risk.yaml")
    print(experiment.result().metrics)

A submitted experiment behaves like a Future: ``done()``, ``result()``, ``cancel()``; ``events()`` follows it live.
"""

from fairlead.client.errors import ExperimentCancelled, ExperimentFailed
from fairlead.client.experiment import Experiment, Result
from fairlead.client.session import Client
from fairlead.client.stack import Stack, StackProcess

__all__ = ["Client", "Experiment", "ExperimentCancelled", "ExperimentFailed", "Result", "Stack", "StackProcess"]
