"""MLflow as this project uses it: an explicit client, and no messages but warnings."""

import logging
import os

# Read when MLflow is imported: it sends usage data unless told not to.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# The tracker tries again by itself, as long as need be; a call that waits for minutes could not be ended.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
# A server's client prints two lines for each run that ends, into the live view.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from mlflow import MlflowClient

for _name in ("mlflow", "alembic"):
    logging.getLogger(_name).setLevel(logging.WARNING)
# A database's error is raised, and said by who catches it; here it is a traceback on the terminal as well.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

__all__ = ["MlflowClient"]
