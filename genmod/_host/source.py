"""Loading and keeping of users' Python files.

Such a file imports modules from its own folder, as a script does. Each loaded file has its own
copies of these modules, under its own names in `sys.modules`, so two files whose modules have the
same names do not conflict. The contents are read once and executed as they were read, even if a
function imports a module hours later. Therefore the copy that is kept is exactly the code that ran.
"""

import ast
import builtins
import hashlib
import importlib
import importlib.abc
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path, PurePosixPath
from types import CodeType, ModuleType
from typing import Any

from genmod._host import disk

_PREFIX = "genmod_source_"
_NEVER_OWN = frozenset({*sys.stdlib_module_names, "genmod"})
"""Names of modules that a user's file never replaces."""


@dataclass(frozen=True)
class Code:
    """Python file with the modules below its folder that it imports.

    Indirect imports are included.

    Attributes:
      path: absolute path of the file.
      files: contents of the file and of those modules, by their path relative to its folder, with
        slashes.
    """

    path: Path
    files: dict[str, bytes]

    @property
    def hash(self) -> str:
        """SHA-256 of names and contents.

        For a file that imports no modules from its folder, it is the SHA-256 of the contents alone.
        """
        contents = {name: hashlib.sha256(text).hexdigest() for name, text in self.files.items()}
        if len(contents) == 1:
            return contents[self.path.name]
        listed = [f"{name} {contents[name]}" for name in (self.path.name, *sorted(contents))]
        return hashlib.sha256("\n".join(listed).encode()).hexdigest()


def read(path: str | Path) -> Code:
    """Reads a Python file and the modules it imports.

    Only import statements and modules below the file's folder count.

    Raises:
      OSError: if it cannot be read.
    """
    path = _absolute(path)
    source = Code(path, {path.name: path.read_bytes()})
    waiting = [path]
    while waiting:
        file = waiting.pop()
        for parts in _imported(source.files[_relative(source, file)], file, path.parent):
            for found in _files_of(path.parent, parts):
                name = _relative(source, found)
                if name not in source.files:
                    source.files[name] = found.read_bytes()
                    waiting += [found] * (found.suffix == ".py")
    return source


def load(path: str | Path) -> ModuleType:
    """Imports a Python file, as a new module at each call.

    Raises:
      OSError: if it cannot be read.
    """
    source = read(path)
    path = source.path
    root = _PREFIX + hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
    _forget(root)
    _install()
    _SOURCES[root] = source
    package = ModuleType(root)
    package.__path__ = _places(source)
    sys.modules[root] = package
    # The module must be in sys.modules: dataclasses look it up there to resolve annotations.
    name = f"{root}.{path.stem.replace('.', '_')}"
    loader = _Loader(root, path)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader.exec_module(module)
    return module


def of(module: ModuleType) -> Code:
    """Returns the code of a module that `load` has returned.

    It includes all that the module has imported until now.
    """
    return _SOURCES[module.__name__.partition(".")[0]]


def keep(source: Code, folder: Path) -> None:
    """Writes a source into a new folder, atomically.

    Raises:
      DiskError: if it cannot be written.
    """
    with disk.writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as partial:
            # The copy is one level deeper, because only the owner may read a temporary folder.
            whole = Path(partial) / folder.name
            for name, content in source.files.items():
                (whole / name).parent.mkdir(parents=True, exist_ok=True)
                (whole / name).write_bytes(content)
            whole.rename(folder)


_SOURCES: dict[str, Code] = {}
"""Loaded sources, by the prefix of their modules in `sys.modules`."""


def _absolute(path: str | Path) -> Path:
    return Path(path).expanduser().absolute()


def _relative(source: Code, file: Path) -> str:
    return file.relative_to(source.path.parent).as_posix()


def _forget(root: str) -> None:
    """Forgets an earlier load of the same file."""
    for name in list(sys.modules):
        if name == root or name.startswith(f"{root}."):
            del sys.modules[name]
    importlib.invalidate_caches()


# The following functions find the imports of a file in its text, because imports within functions
# have not been executed yet.


def _imported(content: bytes, file: Path, folder: Path) -> Iterator[Sequence[str]]:
    """Yields the possible module names in a file's import statements.

    The names are relative to the folder.
    """
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return  # the error is raised when the file is executed
    package = PurePosixPath(file.relative_to(folder)).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level - 1 > len(package):
                continue
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = [*above, *(node.module.split(".") if node.module else ())]
            yield from ([*base, alias.name] for alias in node.names)


def _files_of(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    """Yields the files of a module and its parent packages.

    It stops at the first part of the name that does not exist.
    """
    if not parts or parts[0] in _NEVER_OWN:
        return
    for part in parts:
        inner = folder / part
        candidates = [inner / "__init__.py", folder / f"{part}.py"]
        candidates += [folder / f"{part}{suffix}" for suffix in EXTENSION_SUFFIXES]
        found = next((file for file in candidates if file.is_file()), None)
        if found is not None:
            yield found
        if not inner.is_dir() or (found is not None and found.name != "__init__.py"):
            return
        folder = inner


# The following classes and functions let a user's file import modules from its folder.


class _Loader(importlib.abc.SourceLoader):
    """Loader of a source's modules, which writes no bytecode."""

    def __init__(self, root: str, path: Path):
        self._root, self._path = root, path

    def get_filename(self, fullname: str) -> str:
        return str(self._path)

    def path_stats(self, path: str | bytes) -> Any:
        raise OSError  # without a modification time, bytecode is neither read nor written

    def get_data(self, path: str | bytes) -> bytes:
        source = _SOURCES[self._root]
        name = _relative(source, Path(str(path)))
        if name not in source.files:
            source.files[name] = Path(str(path)).read_bytes()
        return source.files[name]

    def source_to_code(self, data: Any, path: Any, **options: Any) -> CodeType:
        # XLA stores file names in programs, and accepts only Unicode.
        spelt = os.fsencode(path).decode(errors="backslashreplace")
        return super().source_to_code(data, spelt, **options)

    def exec_module(self, module: ModuleType) -> None:
        # Import statements find their __import__ here, including those in functions called later.
        own = {**vars(builtins), "__import__": _importer(self._root)}
        module.__dict__["__builtins__"] = own
        super().exec_module(module)


def _importer(root: str) -> Callable[..., ModuleType]:
    """Makes an `__import__` that searches the user's folder first."""

    def import_(
        name: str,
        globals: Any = None,
        locals: Any = None,
        fromlist: Any = (),
        level: int = 0,
    ) -> ModuleType:
        first = name.partition(".")[0]
        if first == "importlib" and not level:
            return _importlib(root, name, fromlist)
        if level or not _is_own(root, first):
            return builtins.__import__(name, globals, locals, fromlist, level)
        found = builtins.__import__(f"{root}.{name}", globals, locals, fromlist, 0)
        return found if fromlist else sys.modules[f"{root}.{first}"]

    return import_


def _importlib(root: str, name: str, fromlist: Any) -> ModuleType:
    """Returns `importlib` for a user's file.

    Its `import_module` searches the user's folder first.
    """
    found = builtins.__import__(name, fromlist=fromlist)
    if found is not importlib:
        return found

    def import_module(name: str, package: str | None = None) -> ModuleType:
        own = _is_own(root, name.partition(".")[0])
        return importlib.import_module(f"{root}.{name}" if own else name, package)

    whole = ModuleType("importlib", importlib.__doc__)
    vars(whole).update(vars(importlib), import_module=import_module)
    return whole


def _places(source: Code) -> list[str]:
    """Returns the folders of a source's modules.

    They are the file's folder, and folders below it that the file has added to `sys.path`.
    """
    folder = source.path.parent
    below = [path for path in sys.path if Path(path).is_relative_to(folder)]
    mine = [path for path in below if not {"site-packages", "dist-packages"} & {*Path(path).parts}]
    return list(dict.fromkeys([str(folder), *mine]))


def _is_own(root: str, first: str) -> bool:
    """Returns whether the user's folder holds a module."""
    if not first or first in _NEVER_OWN:
        return False
    package = sys.modules[root]
    package.__path__ = _places(_SOURCES[root])
    found = PathFinder.find_spec(f"{root}.{first}", package.__path__)
    if found is None:
        return False
    if found.origin is not None:
        return True
    # As in Python, a folder without an __init__.py gives way to any module of the same name.
    others = (finder for finder in sys.meta_path if not isinstance(finder, _Own))
    return first not in sys.modules and not any(f.find_spec(first, None) for f in others)


class _Own(importlib.abc.MetaPathFinder):
    """Finder of a source's modules, by their names in `sys.modules`."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        root, _, rest = fullname.partition(".")
        if root not in _SOURCES or not rest:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            if isinstance(spec.loader, SourceFileLoader):
                spec.loader = _Loader(root, Path(spec.origin))
            elif Path(spec.origin).is_relative_to(_SOURCES[root].path.parent):
                _Loader(root, Path(spec.origin)).get_data(spec.origin)  # keeps it
        return spec


def _install() -> None:
    if not any(isinstance(finder, _Own) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Own())
