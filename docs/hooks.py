"""Adds pages to the site that are outside of docs/: the studies, and their results."""

import pathlib
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

EXPERIMENTS = pathlib.Path(__file__).resolve().parent.parent / "experiments"
# How links of the repository begin, and what they begin with on the site.
MOVED = {
    "../experiments/README.md": "studies.md",
    "../experiments/results/": "results/",
    "../README.md": "../studies.md",
}
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the page on the studies, and the tables and figures of their results."""
    for path in sorted(EXPERIMENTS.glob("results/**/*")):
        if path.suffix in (".md", ".png"):
            name = path.relative_to(EXPERIMENTS).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    studies = str(EXPERIMENTS / "README.md")
    files.append(File.generated(config, "studies.md", abs_src_path=studies))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Corrects links; of those to files that the site does not have, leaves the text."""
    for old, new in MOVED.items():
        markdown = markdown.replace(f"]({old}", f"]({new}")
    if page.file.src_uri != "studies.md":
        return markdown

    def known(match: re.Match[str]) -> str:
        text, target = match.groups()
        is_page = ":" in target or files.get_file_from_path(target)
        return match.group() if is_page else text

    return LINK.sub(known, markdown)
