"""A command node in the browser: the page and the REST API for people who watch, and for their programs.

Responsible for: HTTP, who may do what, and how answers look. `disbatch_host.client` does the work. Must not know: how a
store finds anything, terminals. Nothing else of this program imports it, and it needs the packages of the extra `web`.

Rules:
1. One table of routes (`api`) decides what there is: the server, the checks of queries and bodies, the OpenAPI document
   and docs/api.md all come from it.
2. A store is lent for one call, never for the length of an answer: a slow reader holds nothing.
3. Whatever comes from a task is text. It is masked before it leaves, in every answer.
"""
