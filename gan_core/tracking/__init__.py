"""A run and its record in MLflow, which nothing else in this package knows. MLflow is set up here, not imported."""

import logging
import os

# Read when MLflow is imported: it sends usage data unless told not to.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# The tracker repeats failed requests itself. A request that MLflow repeats for minutes could not be ended.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
# The client of a server prints two lines for each run that ends, into the live view.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# Where tqdm is installed, it draws a bar for each file.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

# Errors are one line on the terminal, where MLflow and its database library write no more than warnings. An error of
# the database is raised as well as logged with its traceback, and its catcher says it.
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
logging.getLogger("alembic").setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
