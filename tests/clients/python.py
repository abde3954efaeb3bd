"""The Python SDK as a client of ours: `URL PROJECT MARKER MODE`. Runs, sees progress, cancels; and, where there are
sessions, resumes."""

import asyncio, json, sys, mcp
url, project, marker, mode = sys.argv[1:]

async def between(host, port):
    """A way to the server whose connections can be broken."""
    open_now = set()
    async def copy(source, sink):
        try:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()
    async def serve(reader, writer):
        there, back = await asyncio.open_connection(host, port)
        open_now.update((writer, back))
        try:
            await asyncio.gather(copy(reader, back), copy(there, writer))
        except asyncio.CancelledError:
            pass # with the program
    server = await asyncio.start_server(serve, host, 0)
    return server.sockets[0].getsockname()[1], open_now

async def resume():
    """A connection that breaks during a call is taken up again, and nothing is run twice."""
    host, port = url.split("/")[2].split(":")
    own, open_now = await between(host, int(port))
    async with mcp.Client(f"http://{host}:{own}/mcp", mode=mode) as client:
        command = {"project_id": project, "command": "echo begun; sleep 2; echo ended"}
        task = asyncio.create_task(client.call_tool("run_command", command, progress_callback=ignore))
        await asyncio.sleep(1)
        for connection in open_now:
            connection.transport.abort()
        result = await task
        assert result.content[0].text == "Exit code: 0\n\nSTDOUT:\nbegun\nended\n", result
        print("resumed")

async def ignore(progress, total=None, message=None):
    pass

async def main():
    async with mcp.Client(url, mode=mode) as client:
        said = []
        async def listen(progress, total=None, message=None):
            said.append(message)
        run = lambda command, **more: client.call_tool("run_command", {"project_id": project, "command": command}, **more)
        # The client holds each result against the tool's output schema.
        result = await run("echo one; sleep 0.5; echo two; exit 3", progress_callback=listen)
        assert not result.is_error and result.structured_content["exit_code"] == 3, result
        assert "".join(said) == "one\ntwo\n" and len(said) >= 2, said
        result = await run("head -c 20000000 /dev/zero", progress_callback=listen)
        assert result.structured_content["stdout_bytes"] == 20000000
        result = await run("true", **{})
        assert result.structured_content["status"] == "exited"
        bad = await client.call_tool("run_command", {"project_id": project, "command": ""})
        assert bad.is_error and bad.content[0].text.startswith("Error: "), bad
        for name, arguments in [
            ("write_file", {"file_path": "a/b", "content": "text"}), ("read_file", {"file_path": "a/b"}),
            ("list_files", {}), ("get_project", {}), ("run_list", {}),
        ]:
            result = await client.call_tool(name, {"project_id": project, **arguments})
            assert not result.is_error, (name, result)
        assert not (await client.call_tool("list_projects", {})).is_error
        task = asyncio.create_task(run("sleep " + marker))
        await asyncio.sleep(1)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            print("cancelled")
if mode == "legacy":
    asyncio.run(resume())
asyncio.run(main())
