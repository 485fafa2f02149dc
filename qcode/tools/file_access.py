"""What file tools share: how a path is shown, and the permission question about one."""

from __future__ import annotations

from pathlib import Path

from qcode.protocol.permissions import Access, Display, PermissionRequest
from qcode.sandbox.sensitive_paths import is_protected, is_secret
from qcode.sandbox.workspace import Workspace


def shown_path(workspace: Workspace, path: Path) -> str:
    """Relative to the workspace where it lies inside."""
    return path.relative_to(workspace.root).as_posix() if workspace.contains(path) else str(path)


def is_secret_file(workspace: Workspace, path: Path) -> bool:
    """Where the workspace itself lies says nothing about the files in it."""
    return is_secret(Path(shown_path(workspace, path)))


def read_request(
    workspace: Workspace,
    *,
    tool: str,
    path: str,
    doing: str,
    also_inside: tuple[Path, ...] = (),
) -> PermissionRequest:
    """The question of a tool that reads `path`, as the model wrote it. `doing` is what the title
    says before the path. Raises `ToolError`."""
    resolved = workspace.resolve(path)
    return file_request(
        workspace,
        tool=tool,
        access=Access.READ,
        path=resolved,
        title=f"{doing} {shown_path(workspace, resolved)}",
        also_inside=also_inside,
    )


def file_request(
    workspace: Workspace,
    *,
    tool: str,
    access: Access,
    path: Path,
    title: str,
    preview: Display | None = None,
    also_inside: tuple[Path, ...] = (),
) -> PermissionRequest:
    """`path` is resolved. `also_inside` are directories that count as part of the workspace."""
    inside = workspace.contains(path) or any(
        root == path or root in path.parents for root in also_inside
    )
    name = Path(shown_path(workspace, path))
    return PermissionRequest(
        tool=tool,
        access=access,
        target=str(path),
        inside_workspace=inside,
        title=title,
        preview=preview,
        protected=is_protected(name) if access is Access.EDIT else is_secret(name),
    )
