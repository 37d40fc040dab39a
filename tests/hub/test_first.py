async def test_x(hub):
    a = await hub.spawn("ana", {"gpu": "1g"})
    print(a)
    print(await hub.lease("ana"))
    print(hub.app.proxy.routes.keys())
    print(await hub.stop("ana"))
    await hub.nothing_left()
    await hub.session.close()
