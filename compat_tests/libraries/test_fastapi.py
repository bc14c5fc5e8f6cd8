"""FastAPI: a handler awaits ``loop.run_in_executor(executor, ...)``; the executor lives as long as the application."""

from __future__ import annotations

import asyncio
import contextlib

from compat_tests.libraries.availability import require

fastapi = require("fastapi")
testclient = require("fastapi.testclient")


def square(x: int) -> int:
    return x * x


def test_run_in_executor(executor_class):
    @contextlib.asynccontextmanager
    async def lifespan(app):
        with executor_class(2) as executor:
            app.state.executor = executor
            yield

    app = fastapi.FastAPI(lifespan=lifespan)

    @app.get("/square/{x}")
    async def handler(x: int) -> int:
        return await asyncio.get_running_loop().run_in_executor(app.state.executor, square, x)

    with testclient.TestClient(app) as client:
        assert [client.get(f"/square/{x}").json() for x in range(5)] == [square(x) for x in range(5)]
