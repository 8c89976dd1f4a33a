"""Every metric, tag and artifact that a run or a sweep has in MLflow, by name; nothing else spells them out."""

import math

# Metrics of an epoch: step = epoch, 1-based, one point per epoch.
LOSS_D = "loss/discriminator"  # mean over the epoch
LOSS_G = "loss/generator"
LOSS_STD_D = "loss_std/discriminator"  # standard deviation within the epoch
LOSS_STD_G = "loss_std/generator"
SCORE_REAL = "score/real"  # mean D(x)
SCORE_FAKE = "score/fake"  # mean D(G(z))
EPOCH_SECONDS = "time/epoch_seconds"
IMAGES_PER_SECOND = "time/images_per_second"
FLOOR_RATIO = "time/floor_ratio"  # of a step to its matrix products alone; at the first epoch on a kind of machine

# Metrics of an evaluation.
FD = "quality/fd"  # Fréchet distance: what settings are ranked by
KD = "quality/kd"  # kernel distance
INCEPTION_SCORE = "quality/is"
PRECISION = "quality/precision"
RECALL = "quality/recall"
DENSITY = "quality/density"
COVERAGE = "quality/coverage"
CLASS_KL = "quality/class_kl"
CONFIDENCE = "quality/confidence"
SCORE_RANGES = {  # the least and the greatest value of each score, in the order in which scores are shown
    FD: (0, math.inf),
    KD: (-math.inf, math.inf),
    INCEPTION_SCORE: (1, math.inf),  # the number of classes at most
    PRECISION: (0, 1),
    RECALL: (0, 1),
    DENSITY: (0, math.inf),
    COVERAGE: (0, 1),
    CLASS_KL: (0, math.inf),
    CONFIDENCE: (0, 1),
}
SCORES = tuple(SCORE_RANGES)
EVALUATION_SECONDS = "time/evaluation_seconds"

# Tags of a run.
CONFIG_HASH = "config_hash"
LOCK = "run.lock"  # FOLDER/LOCK, which the process of a run or sweep holds as long as it lives
HEALTH = "health"
HEALTH_REASON = "health_reason"
FAILURE_REASON = "failure_reason"
CLASSIFIER = "quality.classifier"  # SHA-256 of the weights
CLASSIFIER_ACCURACY = "quality.classifier_accuracy"
EVALUATION_IMAGES = "quality.n"
REAL_BASELINE = "quality.real_baseline"  # JSON: score → value
UNTRAINED_BASELINE = "quality.untrained_baseline"
PARENT = "mlflow.parentRunId"
RUN_COLOUR = "mlflow.runColor"
MACHINES = "machine.kinds"  # that have trained the run, in order, by a semicolon
COMMITS = "code.commits"  # of a run that more than one commit of the code has trained: all, in order

# Tags of a sweep: the last on each child, the others on the parent.
SWEEP_KIND = "sweep.kind"
SWEEP_FORMAT = "sweep.format"  # what this version writes; absent: the version that called a setting a cell
SWEEP_KEY = "sweep.key"  # JSON of the settings that all its runs have in common
SWEEP_UNNAMED = "sweep.unnamed"
SWEEP_AXES = "sweep.axes"  # the fields that vary, in the order of the names, by a space; without the seed
SWEEP_NOW = "now."  # before the name of a parent's param: its value since the sweep has grown
SETTING = "sweep.setting"  # the name of the run's setting

# Tags of a race: what it has found, on the parent; and on a run that was not trained to its end, why.
ANSWER = "answer"  # best, equal or open
ANSWER_SETTINGS = "answer.settings"  # their names, by a space
ANSWER_CONFIDENCE = "answer.confidence"
ANSWER_MARGIN = "answer.margin"
ANSWER_MAX_SEEDS = "answer.max_seeds"  # that a setting may have
ANSWER_LEADS = "answer.leads"  # the setting of least distance so far
ANSWER_CHECK = "answer.check"  # by fresh seeds: the chosen setting, its distance and the interval of that
DROPPED = "dropped"
SWEEP_SEARCH = "sweep.search"  # on the parent, where settings are drawn: how
FORMAT_VERSION = "2"

# Metrics of a sweep's parent run: the prefix and the setting's name; step = epoch.
RACE_LEFT = "race/settings_left"  # step: the number of batches of runs that were asked for
RACE_EPOCHS = "race/epochs"  # asked for so far
RACE_IDLE = "race/idle_share"  # of the workers' time, in this process
RACE_LIKELY_LEFT = "race/runs_likely_left"  # in whole runs
SETTING_FD = "fd/"  # geometric mean of FD over the setting's finished runs

# Artifacts of a run.
LOSSES_ARRAYS = "losses.npz"  # every iteration
LOSSES_PICTURE = "losses.png"
METRICS_TABLE = "metrics.csv"
CONFIG_FILE = "config.json"
QUALITY_FILE = "quality.json"
TRACEBACK_FILE = "traceback.txt"
GENERATOR_FILE = "generator.safetensors"
SAMPLES = "samples"  # a folder, and the key of MLflow's image slider

# Artifacts of a sweep's parent run.
SWEEP_FILE = "sweep.toml"
REPORT = "report"  # a folder
CONTACT_SHEET = "contact_sheet.png"


def sheet_name(epoch: int) -> str:
    """The path of an epoch's sample sheet among a run's artifacts."""
    return f"{SAMPLES}/epoch_{epoch:04d}.png"
