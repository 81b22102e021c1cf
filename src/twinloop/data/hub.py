"""A data set of the Hugging Face Hub: its files, from the Hub or from its cache."""

import threading
from pathlib import Path

from twinloop.errors import UserError

HUB_SECONDS = 3.0
"""How long the Hub may take to answer before its cache is asked."""


def hub_folder(repository: str, revision: str | None) -> Path:
    """Download a data set's files, or find them in the Hub's cache where the Hub is silent.

    Raises:
        UserError: neither has it, it is no Hub id, or the download broke off.
    """
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
            f"data.source: the Hub does not answer and its cache has no whole {repository!r}; "
            "pass --data.source FOLDER (with make: DATA=FOLDER), or --data.source digits "
            "to try things out with no network"
        ) from error
    except HFValidationError as error:
        raise UserError(
            f"data.source: {repository!r} is neither a folder nor a Hub id (owner/name)"
        ) from error
    except Exception as error:  # whatever a broken connection raises
        reason = " ".join(str(error).split())
        raise UserError(
            f"data.source: the download of {repository!r} broke off: {reason}; "
            "try again: what has arrived is kept; or pass --data.source FOLDER"
        ) from error
    return Path(folder)


def _commit(repository: str, revision: str | None) -> str | None:
    """The commit that the Hub has for `revision`; None where it does not answer in time.

    Raises:
        UserError: the Hub answers that it has no such data set.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    replies: list[str | Exception] = []

    def ask() -> None:
        try:
            api = HfApi(library_name="twinloop")
            info = api.dataset_info(repository, revision=revision, timeout=HUB_SECONDS)
            replies.append(str(info.sha))
        except Exception as error:  # handed to the thread that waits
            replies.append(error)

    # A name server that never answers is bound by no time-out of the client's.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    reply = replies[0] if replies else None
    if isinstance(reply, HfHubHTTPError) and not isinstance(reply, OfflineModeIsEnabled):
        status = reply.response.status_code
        if status in (401, 403, 404):
            raise UserError(
                f"data.source: the Hub has no public data set {repository!r} "
                f"(revision {revision or 'main'}); check the name"
            ) from reply
    return reply if isinstance(reply, str) else None
