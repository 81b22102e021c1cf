"""Several jobs work on one study by the script of `experiments/sweeps/`, one of them pre-empted."""

import sys
from pathlib import Path

import pytest

from tests.faults.sweeps import rows
from tests.slurm.cluster import missing, slurm, until

ROOT = Path(__file__).parents[2]
GRID = "{sampler: grid, settings: {model.network.hidden: [8, 16, 24, 32, 40, 48]}}"

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.timeout(600),
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]


def test_jobs_share_a_study_and_a_preempted_one_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    (tmp_path / "sweep.yaml").write_text(GRID)
    folder = tmp_path / "sweep"
    command = [
        *("sbatch", "--parsable", "--export", f"ALL,PYTHON={sys.executable}"),
        *("--chdir", str(ROOT), "--output", str(tmp_path / "job-%j.txt")),
        *("experiments/sweeps/slurm.sh", "--folder", str(folder)),
        *("--config", "experiments/mlp.yaml", "--sweep", str(tmp_path / "sweep.yaml")),
        *("--data.source", "digits", "--trainer.max_epochs", "2"),
    ]
    with slurm() as cluster:
        jobs = [int(cluster.call(*command)) for _ in range(2)]
        until(lambda: any(folder.glob("trial-*/config.yaml")), "a trial", 240)
        cluster.requeue(jobs[0])
        ended = [cluster.wait(job) for job in jobs]
    printed = [path.read_text() for path in sorted(tmp_path.glob("job-*.txt"))]
    assert [job["JobState"] for job in ended] == ["COMPLETED"] * 2, printed
    assert ended[0]["Restarts"] == "1"
    states = [row[1] for row in rows(folder) if isinstance(row[1], str)]
    assert states == ["COMPLETE"] * 6, printed
    assert (folder / "best.yaml").is_file()
    assert len(list(folder.glob("trial-*/results.json"))) == 6
