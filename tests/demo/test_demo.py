import hashlib
import re

import numpy as np
import pytest

import kbn
from kbn.__main__ import main
from kbn.demo import datasets
from tests.support import events

SHORT = ["demo", "--steps", "200"]


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory):
    """One short run of the command, and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    import contextlib
    import io

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main([*SHORT, "--log-dir", str(folder)]) == 0
    return folder, printed.getvalue()


def test_prints_tables_and_where_to_look(demonstration):
    folder, printed = demonstration
    assert "Validation accuracy" in printed
    assert re.search(r"│ 200 +│ 0\.\d+ +│ 0\.\d+ +│", printed)
    for layer in ("sigmoid_1", "sigmoid_2", "sigmoid_3"):
        assert re.search(rf"│ {layer} +│ \d+\.\d+ +│ \d+\.\d+ +│", printed)
    table = printed.split("Mean shift")[1].split("The plain net")[0]
    assert re.findall(r"^│ (\w+)", table, re.M) == ["sigmoid_1", "sigmoid_2", "sigmoid_3"]
    assert "The plain net reached its best accuracy" in printed
    assert printed.rstrip().endswith(f"tensorboard --logdir {folder}")


def test_normalization_learns_faster_and_moves_less(demonstration):
    _, printed = demonstration
    plain, normalized = map(float, re.search(r"│ 200 +│ (\S+) +│ (\S+) +│", printed).groups())
    assert normalized > plain + 0.3
    # The last hidden layer, as in the paper's figure; the first moves most in the net that learns.
    moved = re.search(r"│ sigmoid_3 +│ (\S+) +│ (\S+) +│", printed).groups()
    assert 10 * float(moved[1]) < float(moved[0])


def test_both_runs_have_every_layer_at_equal_steps(demonstration):
    folder, _ = demonstration
    steps = {}
    for run in ("plain", "batch_norm"):
        for layer in ("sigmoid_1", "sigmoid_2", "sigmoid_3"):
            series = events.series(folder / run / "covariate_shift", f"activations/{layer}/input")
            steps[run, layer] = list(series)
    assert len(set(map(tuple, steps.values()))) == 1
    assert steps["plain", "sigmoid_1"] == list(range(0, 201, 4))


def test_the_report_is_one_file_and_its_path_is_printed(demonstration):
    folder, printed = demonstration
    assert f"Report (open it in a browser): {folder / 'report.html'}" in printed
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "batch_norm moved least" in page
    assert "sigmoid_3 input, batch_norm" in page


@pytest.mark.thorough
def test_same_seed_same_result_and_a_second_run_replaces_the_first(tmp_path, capsys):
    printed = []
    for _ in range(2):
        assert main([*SHORT, "--seed", "3", "--log-dir", str(tmp_path)]) == 0
        printed.append(capsys.readouterr().out)
        assert len(list(tmp_path.glob("*/covariate_shift/events.*"))) == 2
    tables = [text.split("Validation accuracy")[1].split("Mean shift")[0] for text in printed]
    assert tables[0] == tables[1]
    assert [f"Replacing the earlier demonstration in {tmp_path}" in text for text in printed] == [
        False,
        True,
    ]


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"kbn {kbn.__version__}\n"


def test_both_nets_start_from_the_same_weights():
    from kbn.demo.demonstration import network

    plain, normalized = (network(64, normalized, seed=5) for normalized in (False, True))
    for name in ("dense_1", "dense_2", "dense_3", "logits"):
        np.testing.assert_array_equal(
            plain.get_layer(name).kernel.numpy(), normalized.get_layer(name).kernel.numpy()
        )


def test_digits_are_split_into_disjoint_parts():
    split = datasets.load("digits", seed=1)
    assert [len(x) for x, _ in split] == [1238, 359, 200]
    rows = np.concatenate([x for x, _ in split])
    assert len(np.unique(rows, axis=0)) == len(rows)
    assert rows.min() == 0
    assert rows.max() == 1


def test_the_parts_of_the_makers_are_whole_and_disjoint(fashion_mnist):
    found = datasets.parts("fashion-mnist")
    assert [(x.shape, x.dtype, y.dtype) for x, y in found] == [
        ((60_000, 28, 28), "float32", "int64"), ((10_000, 28, 28), "float32", "int64")]  # fmt: skip
    assert [np.bincount(y).tolist() for _, y in found] == [[6000] * 10, [1000] * 10]
    # The known sum is of the whole file, header and all.
    pixels = np.round(found.test[0] * 255).astype("uint8")
    header = bytes([0, 0, 8, 3]) + b"".join(int(n).to_bytes(4) for n in pixels.shape)
    assert hashlib.sha256(header + pixels.tobytes()).hexdigest().startswith("5b4141f0afbad91e")
    digits = datasets.parts("digits")
    assert [x.shape for x, _ in digits] == [(1437, 8, 8), (360, 8, 8)]
    rows = np.concatenate([x.reshape(len(x), -1) for x, _ in digits])
    assert len(np.unique(rows, axis=0)) == 1797
    assert all(x.min() == 0 and x.max() == 1 for x, _ in (*found, *digits))


@pytest.mark.thorough
def test_fashion_mnist_from_debians_folder(fashion_mnist, tmp_path, capsys):
    split = datasets.load("fashion-mnist", seed=0)
    assert split.train[0].shape == (47_800, 784)
    assert np.bincount(np.concatenate([y for _, y in split])).tolist() == [6000] * 10
    assert main([*SHORT, "--data", "fashion-mnist", "--log-dir", str(tmp_path / "log")]) == 0
    assert "fashion-mnist: 47800 samples" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "3"], "--steps: must be an integer of at least 50, not '3'"),
        (["--steps", "x"], "must be an integer of at least 50, not 'x'"),
        (["--seed", "-1"], "expected one argument|must be an integer of at least 0, not '-1'"),
        (["--data", "cifar"], "invalid choice: 'cifar'"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["demo", *arguments])
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err.strip().splitlines()[-1])


def test_missing_data_is_one_line_and_exit_code_2(python):
    code = (
        "import sys; sys.modules['sklearn'] = None; sys.modules['sklearn.datasets'] = None;"
        "from kbn.__main__ import main; sys.exit(main(['demo']))"
    )
    # TensorFlow says twice that oneDNN is on, whatever its log level.
    done = python("-c", code, check=False, TF_ENABLE_ONEDNN_OPTS="0")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "kbn demo: the digits come with scikit-learn" in done.stderr
    assert "pip install scikit-learn" in done.stderr


def test_a_broken_data_file_is_one_line_and_exit_code_2(monkeypatch, tmp_path, capsys):
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"not gzip")
    monkeypatch.setattr(datasets, "FASHION_MNIST_FOLDER", tmp_path)
    arguments = ["demo", "--data", "fashion-mnist", "--log-dir", str(tmp_path / "log")]
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "train-images-idx3-ubyte.gz cannot be read (Not a gzipped file" in message


@pytest.mark.parametrize("where", ["a_file", "a_file/below", "/proc/kbn"])
def test_an_unwritable_log_folder_is_one_line_and_exit_code_2(where, tmp_path, capsys):
    (tmp_path / "a_file").write_text("")
    assert main([*SHORT, "--log-dir", str(tmp_path / where)]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert where in message


def test_a_log_folder_of_another_machine_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--log-dir", "gs://bucket/x"]) == 2
    assert capsys.readouterr().err == (
        "kbn demo: log_dir must be a path of this machine. Received: log_dir='gs://bucket/x'\n"
    )
    assert not list(tmp_path.iterdir())
