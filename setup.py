"Hands the package facts of settings.ini to setuptools; settings.ini is their one source."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

ini = ConfigParser(delimiters=["="])
ini.read(Path(__file__).parent / "settings.ini", encoding="utf-8")
fact = ini["DEFAULT"]
words = {key: fact[key].split() for key in ("requirements", "data_requirements", "live_requirements", "research_requirements", "cluster_requirements", "dev_requirements", "lab_requirements", "console_scripts")}
research = words["data_requirements"] + words["live_requirements"] + words["research_requirements"]

setup(
    name=fact["lib_name"], version=fact["version"], description=fact["description"], keywords=fact["keywords"],
    author=fact["author"], author_email=fact["author_email"], license="Apache-2.0", url=fact["git_url"],
    long_description=Path("README.md").read_text(encoding="utf-8"), long_description_content_type="text/markdown",
    packages=find_packages(include=["mesbot*", "live_runner*"]), python_requires=f">={fact['min_python']}",
    install_requires=words["requirements"],
    extras_require={"data": words["data_requirements"], "live": words["live_requirements"],
                    "research": research, "cluster": words["cluster_requirements"],
                    "dev": research + words["cluster_requirements"] + words["dev_requirements"],
                    "lab": research + words["cluster_requirements"] + words["dev_requirements"] + words["lab_requirements"]},
    entry_points={"console_scripts": words["console_scripts"], "nbdev": [f"{fact['lib_name']}=mesbot._modidx:d"]},
)
