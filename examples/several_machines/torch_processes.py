"""PyTorch: a loop in two processes with DistributedDataParallel, with callbacks on the chief.

    python examples/several_machines/torch_processes.py [--epochs 3] [--log-dir runs/torch]
    torchrun --nproc-per-node 2 examples/several_machines/torch_processes.py
    python examples/several_machines/torch_processes.py --ray  # needs pip install 'ray[train]'
    tensorboard --logdir runs/torch

The script starts both processes on this machine. On several machines, start it with torchrun, which
sets the environment variables that `main` sets, or with Ray Train on a cluster of Ray. With
`synchronized=True`, all processes normalize with the statistics of the global batch. Without it,
each normalizes with its own batch. In both cases all processes have the same moving statistics.
"""

import argparse
import os

BATCH = 64  # of all processes together


def train(epochs: int, log_dir: str) -> None:
    """Train as one of the processes. The environment variables say which."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras
    import torch
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    import kbn
    from kbn.demo import datasets

    started = not distributed.is_initialized()  # Ray does it itself
    on_gpus = torch.cuda.is_available()  # one process per GPU; not tried
    if on_gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if started:
        distributed.init_process_group("nccl" if on_gpus else "gloo")
    index, count = distributed.get_rank(), distributed.get_world_size()
    keras.utils.set_random_seed(0)  # the same weights in every process
    tensor = keras.ops.convert_to_tensor  # on the device of the model
    (x, y), held_out, probe = datasets.load("digits", seed=0)
    model = keras.Sequential([
        keras.layers.Input((64,)), keras.layers.Dense(64, use_bias=False),
        kbn.BatchNormalization(momentum=0.9, synchronized=True, name="bn"), keras.layers.ReLU(),
        keras.layers.Dense(10),
    ])  # fmt: skip
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.Adam(parallel.parameters(), 1e-3)
    criterion = torch.nn.CrossEntropyLoss()
    callbacks = [
        kbn.callbacks.CovariateShift(log_dir, probe, every_steps=10),
        kbn.callbacks.MovingStatistics(log_dir, probe, every_steps=10),
    ]
    steps = len(x) // BATCH
    with kbn.callbacks.watching(callbacks, model, epochs=epochs, steps=steps) as watch:
        for _ in range(epochs):
            for batch in range(steps):
                part = slice(batch * BATCH + index, (batch + 1) * BATCH, count)
                optimizer.zero_grad()
                inputs, labels = tensor(x[part]), tensor(y[part], "int64")
                loss = criterion(parallel(inputs, training=True), labels)
                loss.backward()
                optimizer.step()
                watch.step({"loss": loss.detach()})
            watch.end_epoch()
    with torch.no_grad():
        right = model(tensor(held_out[0])).argmax(1) == tensor(held_out[1])
    mean = float(model.get_layer("bn").moving_mean.value.mean())
    if index == 0:
        model.save(os.path.join(log_dir, "model.keras"))
    taken = [len({row.step for row in callback.history}) for callback in callbacks]
    print(
        f"process {index}: validation accuracy {right.float().mean():.3f}, "
        f"average of the moving mean {mean:.6f}, records {taken}"
    )
    if started:
        distributed.destroy_process_group()


def train_by_ray(epochs: int, log_dir: str) -> None:
    """Train in two workers of Ray, each on one CPU of any machine of the cluster."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    TorchTrainer(
        lambda settings: train(**settings),
        train_loop_config={"epochs": epochs, "log_dir": log_dir},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(name="ray", storage_path=log_dir),
    ).fit()


def main() -> None:
    """Start both processes, and wait for them."""
    import processes

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--log-dir", default="runs/torch")
    parser.add_argument("--ray", action="store_true", help="start the processes by Ray Train")
    options = parser.parse_args()
    if options.ray:
        train_by_ray(options.epochs, os.path.abspath(options.log_dir))
        return
    if "RANK" in os.environ:
        train(options.epochs, options.log_dir)
        return
    processes.start(
        lambda index, ports: {
            "RANK": str(index),
            "WORLD_SIZE": str(len(ports)),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(ports[0]),
        }
    )


if __name__ == "__main__":
    main()
