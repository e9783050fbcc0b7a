"""Compile kbn's CPU kernels; setup.cfg contains the rest of the configuration.

If there is no C++ compiler, kbn is installed without them, and TensorFlow's own kernels run.
"""

from glob import glob

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "kbn._native",
            ["kbn/native/plain_kernels.cc", "kbn/native/tensorflow_kernels.cc"],
            depends=sorted(glob("kbn/native/*.h")),
            language="c++",
            extra_compile_args=[
                "-std=c++17",
                "-O3",
                "-g0",
                "-fvisibility=hidden",
                "-ffp-contract=fast",
                "-fno-math-errno",
                "-fno-trapping-math",
            ],
            extra_link_args=["-pthread"],
            libraries=["dl"],
            py_limited_api=True,
            optional=True,
        )
    ]
)
