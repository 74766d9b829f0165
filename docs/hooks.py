"""How MkDocs sees the repository: every page keeps its path, and a link to a source file opens a page with its lines.

MkDocs takes pages from docs/ alone. Here the README, the measured pages and the data's page join them under the paths
that they have in the repository, so that the links between them, which work in the checkout, work in the site as well.
"""

import json
import posixpath
import re
from pathlib import Path

import griffe
from mkdocs.structure.files import File
from pymdownx.slugs import slugify

ROOT = Path(__file__).parent.parent
OUTSIDE = ("README.md", "README.zh.md", "models/data/README.md", "bench/results/*.md")
PUBLIC = [
    "Tensor",
    "Generator",
    "AnomalyError",
    "KernelLimit",
    "detect_anomaly",
    "explain",
    "from_dlpack",
    "manual_seed",
]
API = {  # page -> what stands on it, with options of mkdocstrings
    "core": {"core": {"members": [*PUBLIC, "no_grad", "use"]}},
    "core.functional": {  # attention the function is hidden by attention the module
        "core.functional": {"show_if_no_docstring": True},
        "core.functional.attention.attention": {"show_root_heading": True},
    },
    "core.nn": {"core.module": {"show_if_no_docstring": True}, "core.nn": {"show_if_no_docstring": True}},
    "core.optim": {"core.optim": {}},
    "kernels.launch": {"kernels.launch": {}},
    "models": {"models": {"inherited_members": True}},
}
NAMED = re.compile(r"(?<!\[)`([\w/]+/\w+\.py)(: [\w.]+)?`")  # `file` and `file: name` in the text
LINK = re.compile(r"(\]\(|^\[[^]\n]+\]: )([^)#\s]+)", re.MULTILINE)


class WithoutNext(griffe.Extension):
    """Leaves out the lines of a docstring that name a page and the file to read next: they are not about the module."""

    def on_module(self, *, mod, **_):
        if mod.docstring:
            mod.docstring.value = re.split(r"\n# (?:why|next):", mod.docstring.value)[0]


def on_config(config):
    config.mdx_configs["toc"]["slugify"] = slugify(case="lower")  # as GitHub's anchors, in Chinese too


def on_files(files, config):
    for file in list(files):
        if file.src_dir == config.docs_dir:
            files.remove(file)
            if file.src_uri.endswith((".md", ".png")):
                files.append(_here(f"docs/{file.src_uri}", config))
    for path in sorted(path for pattern in OUTSIDE for path in ROOT.glob(pattern)):
        files.append(_here(path.relative_to(ROOT).as_posix(), config))
    for source in sorted(set(_sources(files))):
        language = "python" if source.endswith(".py") else "text"
        page = f"# {source}\n\n````{language}\n{(ROOT / source).read_text(encoding='utf-8')}````\n"
        files.append(File.generated(config, f"{source}.md", content=page))
    for name, blocks in API.items():
        lines = [f"::: {what}\n    options: {json.dumps(options)}\n" for what, options in blocks.items()]
        files.append(File.generated(config, f"docs/api/{name}.md", content="\n".join([f"# {name}\n", *lines])))
    return files


def on_page_markdown(markdown, page, config, files):
    def followed(match):
        return match[0] + ".md" if _source(match[2], page.file.src_uri) else match[0]

    def linked(match):
        if not (ROOT / match[1]).is_file():
            return match[0]
        return f"[{match[0]}]({posixpath.relpath(match[1], posixpath.dirname(page.file.src_uri))}.md)"

    return NAMED.sub(linked, LINK.sub(followed, markdown))


def _here(path, config):
    return File(path, str(ROOT), config.site_dir, config.use_directory_urls)


def _sources(files):
    """Paths of the source files that pages link to or name."""
    for file in files.documentation_pages():
        yield from (path for path, _ in NAMED.findall(file.content_string) if (ROOT / path).is_file())
        for _, target in LINK.findall(file.content_string):
            if source := _source(target, file.src_uri):
                yield source


def _source(target, page):
    """The path of the source file that a page's link leads to, or None if it leads elsewhere."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
    is_source = (ROOT / path).is_file() and not path.endswith((".md", ".png"))
    return path if is_source and not path.startswith("..") else None
