"""What a training process gets of the worker's environment."""

from worker.process import environment_of


def test_a_tracker_gets_its_own_variables_and_no_other(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "one")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.internal")
    monkeypatch.setenv("LUTHIER_DATABASE_URL", "postgresql://secret")
    given = environment_of(["tensorboard", "mlflow"])
    assert given["MLFLOW_TRACKING_URI"] == "http://mlflow.internal"
    assert not {"WANDB_API_KEY", "LUTHIER_DATABASE_URL"} & given.keys()
    assert environment_of([]) == {}
