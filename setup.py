"""Build of the package; the settings of the tools are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def read_version() -> str:
    """Return ``__version__`` of the package without importing it, since an import needs PyTorch."""
    source = (ROOT / "resnest_backbones" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', source, flags=re.MULTILINE)
    if match is None:
        raise RuntimeError('resnest_backbones/__init__.py has no line __version__ = "..."')
    return match.group(1)


def read_readme() -> str:
    """Return the text of README.md, empty in a tree that has none."""
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


# What the trunk itself needs. No framework is here: each plugin has its own extra.
CORE = [
    "torch>=2.4",
    "torchvision>=0.19",
    "filelock>=3.12",
    "numpy>=1.24",
    "tqdm>=4.60",  # shows how far a download is
]

EXTRAS = {
    # What Detectron2 needs at run time. Detectron2 itself is not here, because no wheel of it is published for every
    # Python: `resnest-backbones install-detectron2` installs it.
    "detectron2": [
        "cloudpickle>=2.2",
        "fvcore>=0.1.5.post20221221",
        "hydra-core>=1.1",
        "iopath>=0.1.9",
        "matplotlib>=3.7",
        "omegaconf>=2.1,<2.4",
        "packaging>=21.3",
        "pillow>=9.5",
        "pycocotools>=2.0.6",
        "setuptools<81",  # detectron2.model_zoo imports pkg_resources, which later releases drop
        "shapely>=2.0",  # fvcore crops the outlines of masks with it, and does not say so
        "tabulate>=0.9",
        "tensorboard>=2.12",
        "termcolor>=1.1",
        "tqdm>=4.60",
        "yacs>=0.1.8",
    ],
    "mmseg": [
        "onedl-mmcv>=2.3.6,<3",
        "onedl-mmengine>=0.10.12,<1",
        "onedl-mmsegmentation>=1.4.2,<2",
    ],
    "demo": [
        "jinja2>=3.1",  # the page of tools/visualize.py
        "matplotlib>=3.7",
        "opencv-python>=4.8",  # reads and writes the videos of tools/demo.py
        "pillow>=9.5",
        "pycocotools>=2.0.6",  # run-length codes of masks
        "scikit-image>=0.22",
        "scikit-learn>=1.3",
        "tabulate>=0.9",  # tables of tools/benchmark.py and the documents
        "tqdm>=4.60",
    ],
    "hub": ["huggingface-hub>=0.26", "safetensors>=0.4"],  # another place of ImageNet weights
    # pycocotools for the masks of exported detectors.
    "export": ["onnx>=1.16", "onnxruntime>=1.18", "onnxscript>=0.2", "pycocotools>=2.0.6", "tabulate>=0.9"],
    "pretrain": [  # tools/pretrain.py
        "matplotlib>=3.7",
        "pillow>=9.5",
        "pycocotools>=2.0.6",  # tools/crop_boxes.py
        "tabulate>=0.9",
        "tensorboard>=2.12",
        "timm>=1.0",
    ],
    "notebooks": ["ipykernel>=6.29", "nbclient>=0.10", "nbformat>=5.10"],  # run docs/notebooks
    "docs": ["mkdocs-material>=9.7", "mkdocstrings[python]>=1.0"],
    "dev": [
        "build>=1.2",
        "fvcore>=0.1.5.post20221221",  # another count of multiply-adds
        "hypothesis>=6.100",
        "mypy>=1.10",
        "openvino>=2025.0",  # tools/demo.py --runtime, and tools/benchmark.py
        "pytest>=8.2",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.7",  # the tests run in two processes, files in the order of their names
        "ruff>=0.9",
        "setuptools>=77,<81",  # tests/test_packaging.py builds the wheel
        "timm>=1.0",
        "twine>=6.0",
    ],
}

setup(
    name="resnest-backbones",
    version=read_version(),
    description="ResNeSt backbones for object detection and semantic segmentation in PyTorch",
    long_description=read_readme(),
    long_description_content_type="text/markdown",
    author="The resnest_backbones authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.14",
    install_requires=CORE,
    extras_require=EXTRAS,
    packages=[*find_packages(include=["resnest_backbones", "resnest_backbones.*"]), "resnest_backbones.configs"],
    # configs/ lies at the top of the repository, where users of both frameworks look for it, and inside the package
    # once installed. The patterns go to any depth, because the folders of configs are no Python packages.
    package_dir={"resnest_backbones.configs": "configs"},
    package_data={
        "resnest_backbones": ["py.typed"],
        "resnest_backbones.configs": ["**/*.yaml", "**/*.py"],
    },
    # What `make demo` and the small benchmark train is for a checkout.
    exclude_package_data={
        "resnest_backbones.configs": [
            "*/demo/*",
            "*/small/*",
            "detectron2/_base_/small*.yaml",
            "detectron2/_base_/*demo.yaml",
            "mmseg/_base_/*/*demo*.py",
        ],
    },
    entry_points={"console_scripts": ["resnest-backbones = resnest_backbones.cli:main"]},
    zip_safe=False,
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
)
