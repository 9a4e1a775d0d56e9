"""The report as one page of HTML that needs nothing else: no network, no library, no data outside it."""
