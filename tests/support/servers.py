"""A TensorBoard process."""

import json
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request


class Server:
    """A TensorBoard process on a free port.

    Attributes:
        url: its address, without a slash at the end.
        log: the lines that it printed.
    """

    def __init__(self, log_dir, *options, path_prefix="", python=sys.executable, env=None):
        where = [f"--logdir={log_dir}"] if log_dir is not None else []
        prefix = [f"--path_prefix={path_prefix}"] if path_prefix else []
        self._process = subprocess.Popen(
            [python, "-m", "tensorboard.main", *where, *prefix, "--port", "0",
             "--host", "127.0.0.1", *options],
            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=env,
        )  # fmt: skip
        self.log = []
        for line in self._process.stderr:
            self.log.append(line)
            found = re.search(r"(http://127\.0\.0\.1:\d+)/", line)
            if found:
                self.url = found.group(1) + path_prefix
                # Keep reading: if the pipe is full, TensorBoard stops.
                self._reader = threading.Thread(target=self._keep_reading, daemon=True)
                self._reader.start()
                return
        self._process.stderr.close()  # the process has ended
        self._process.wait()
        raise RuntimeError(f"TensorBoard did not start: {''.join(self.log)}")

    def _keep_reading(self):
        self.log.extend(self._process.stderr)

    def fetch(self, path, **query):
        parameters = urllib.parse.urlencode(query, doseq=True)
        with urllib.request.urlopen(f"{self.url}{path}?{parameters}") as answer:
            return answer.read()

    def get(self, path, **query):
        return json.loads(self.fetch(path, **query))

    def refused(self, path, **query):
        """Return the status and the content of an error response."""
        try:
            self.fetch(path, **query)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())
        raise AssertionError(f"{path} answered")

    def wait_for(self, path, ready, **query):
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            answer = self.get(path, **query)
            if ready(answer):
                return answer
            time.sleep(0.1)  # poll, because TensorBoard does not report when it has read a log
        raise TimeoutError(f"{path}: {answer}")

    def close(self):
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._process.stderr.close()
