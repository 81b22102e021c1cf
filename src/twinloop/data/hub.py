"""A data set of the Hugging Face Hub: its files, from the Hub or from its cache."""

import threading
from pathlib import Path

from twinloop.errors import UserError

HUB_SECONDS = 3.0
"""How long to wait for the Hub before its local cache is used."""


def download(repository: str, revision: str | None) -> Path:
    """Download a data set, or find it in the Hub's cache if the Hub does not respond."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    commit = _commit(repository, revision)
    try:
        folder = snapshot_download(
            repository,
            repo_type="dataset",
            revision=commit or revision,
            local_files_only=commit is None,
        )
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"data.source: the Hub does not respond and its cache has no complete {repository!r}; "
            "set data.source to a folder (with make: DATA=FOLDER), or to digits, "
            "which needs no network"
        ) from error
    except HFValidationError as error:
        raise UserError(
            f"data.source: {repository!r} is neither a folder nor a Hub id (owner/name)"
        ) from error
    except Exception as error:  # a broken connection raises errors of many types
        reason = " ".join(str(error).split())
        raise UserError(
            f"data.source: the download of {repository!r} failed: {reason}; "
            "try again: completed files are kept; or set data.source to a folder"
        ) from error
    return Path(folder)


def _commit(repository: str, revision: str | None) -> str | None:
    """Ask the Hub for the commit of a revision; None if there is no response in `HUB_SECONDS`.

    Raises:
        UserError: the Hub has no such public data set.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    replies: list[str | Exception] = []

    def ask() -> None:
        try:
            api = HfApi(library_name="twinloop")
            info = api.dataset_info(repository, revision=revision, timeout=HUB_SECONDS)
            replies.append(str(info.sha))
        except Exception as error:  # handed to the waiting thread
            replies.append(error)

    # In a thread, because the client's time-out does not cover the look-up of the host name.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    reply = replies[0] if replies else None
    if isinstance(reply, HfHubHTTPError) and reply.response.status_code in (401, 403, 404):
        raise UserError(
            f"data.source: the Hub has no public data set {repository!r} "
            f"(revision {revision or 'main'}); check the name"
        ) from reply
    return reply if isinstance(reply, str) else None
