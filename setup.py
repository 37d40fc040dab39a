"""Packaging of DS01 Hub: the base install is the command line's few needs, `[hub]` is the server."""

from pathlib import Path

from setuptools import find_packages, setup

HUB = [
    "jupyterhub>=6.1.1,<7",
    "dockerspawner>=14,<15",
    "docker>=7.1,<8",
    "nvidia-ml-py>=13,<14",
    "sqlalchemy>=2.0,<3",
    "alembic>=1.13,<2",
    "psycopg[binary]>=3.2,<4",
    "pyyaml>=6,<7",
    "ruamel.yaml>=0.18,<0.20",
    "prometheus-client>=0.20,<1",
    "tornado>=6.4,<7",
    "traitlets>=5.14,<6",
    "jinja2>=3.1,<4",
    "python-dotenv>=1,<2",
]
TEST = [
    "pytest>=8,<10",
    "pytest-asyncio>=1,<2",
    "pytest-jupyterhub>=0.1,<0.2",
    "pytest-cov>=5,<8",
    "pytest-timeout>=2.3,<3",
    "hypothesis>=6.100,<7",
    "aiohttp>=3.9,<4",
    "websockets>=13,<17",
    "psutil>=5.9,<8",
    "selenium>=4.20,<5",
    "ruff>=0.15,<0.18",
    "mypy>=1.15,<3",
    "import-linter>=2.3,<3",
    "types-PyYAML",
    "types-docker",
]

setup(
    name="ds01-hub",
    version="0.1.0",
    description="A JupyterHub deployment that shares one GPU server fairly among a lab",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="BSD-3-Clause",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["ds01_spawner*", "ds01_services*"]),
    include_package_data=True,
    package_data={"ds01_spawner": ["templates/*.html", "adapters/migrations/*", "adapters/migrations/versions/*"]},
    install_requires=[],
    extras_require={"hub": HUB, "test": HUB + TEST},
    entry_points={
        "jupyterhub.spawners": ["ds01 = ds01_spawner.spawner:DS01Spawner"],
        "console_scripts": ["ds01-hub = ds01_spawner.admin.main:main"],
    },
)
