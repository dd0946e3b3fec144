"""The report as one page that opens from disk: the figures, the network before and after, the proof. Needs `refold[report]`."""

from refold.page._page import check_installed, write_page

__all__ = ["check_installed", "write_page"]
