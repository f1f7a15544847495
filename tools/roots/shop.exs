# What a web application in Elixir does, without its libraries: a supervision tree, a pool
# of acceptors, a process for each connection, pages from EEx templates, sessions in ETS, a
# cache with a limit, channels that are told of what others say (Registry as PubSub).
#
#   GET  /page?user=N     a page, with the session of that user
#   POST /say?room=N      tells all channels of the room; the body is what is said
#   GET  /listen?room=N   a channel: what is said there, as a stream, until it is closed
#   GET  /memory          what erlang:memory() says
#
# It listens on 127.0.0.1:36080 and prints `ready`.

defmodule Shop.Page do
  require EEx

  EEx.function_from_string(:def, :render, """
  <html><head><title>Orders of <%= user %></title></head><body>
  <h1><%= user %></h1><p>Seen <%= seen %> times, token <%= token %></p>
  <table><%= for {name, price} <- rows do %><tr><td><%= name %></td><td><%= price %></td></tr>
  <% end %></table></body></html>
  """, [:user, :seen, :token, :rows])
end

defmodule Shop.Cache do
  use GenServer
  @limit 2000

  def start_link(_), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)
  def get(key, make), do: GenServer.call(__MODULE__, {:get, key, make}, 30_000)

  def init(_) do
    Process.send_after(self(), :tick, 1000)
    {:ok, {%{}, :queue.new()}}
  end

  def handle_call({:get, key, make}, _from, {map, queue}) do
    case map do
      %{^key => value} ->
        {:reply, value, {map, queue}}

      _ ->
        value = make.(key)
        {map, queue} = trim(Map.put(map, key, value), :queue.in(key, queue))
        {:reply, value, {map, queue}}
    end
  end

  def handle_info(:tick, state) do
    Process.send_after(self(), :tick, 1000)
    {:noreply, state}
  end

  defp trim(map, queue) when map_size(map) > @limit do
    {{:value, oldest}, queue} = :queue.out(queue)
    {Map.delete(map, oldest), queue}
  end

  defp trim(map, queue), do: {map, queue}
end

defmodule Shop.Connection do
  require Logger

  def serve(socket) do
    :inet.setopts(socket, active: false, packet: :http_bin)

    case request(socket, nil, 0) do
      {:ok, method, path, length} ->
        :inet.setopts(socket, packet: :raw)
        body = if length > 0, do: elem({:ok, _} = :gen_tcp.recv(socket, length, 30_000), 1), else: ""
        {route, query} = split(path)
        if answer(socket, method, route, query, body) == :again, do: serve(socket)

      _ ->
        :gen_tcp.close(socket)
    end
  end

  defp request(socket, line, length) do
    case :gen_tcp.recv(socket, 0, 60_000) do
      {:ok, {:http_request, method, {:abs_path, path}, _}} -> request(socket, {method, path}, length)
      {:ok, {:http_header, _, :"Content-Length", _, n}} -> request(socket, line, String.to_integer(n))
      {:ok, {:http_header, _, _, _, _}} -> request(socket, line, length)
      {:ok, :http_eoh} when line != nil -> {:ok, elem(line, 0), elem(line, 1), length}
      other -> other
    end
  end

  defp split(path) do
    case String.split(path, "?", parts: 2) do
      [route, query] -> {route, URI.decode_query(query)}
      [route] -> {route, %{}}
    end
  end

  defp answer(socket, :GET, "/page", query, _) do
    user = Map.get(query, "user", "0")
    seen = :ets.update_counter(:sessions, user, {2, 1}, {user, 0, nil})
    token = Base.encode64(:crypto.hash(:sha256, user))
    :ets.update_element(:sessions, user, {3, token})
    rows = Shop.Cache.get(user, fn key ->
      for i <- 1..40, do: {"article #{key}-#{i}", :erlang.phash2({key, i}, 10_000) / 100}
    end)
    Logger.debug("page of #{user}")
    reply(socket, [Shop.Page.render("user " <> user, seen, token, rows)])
  end

  defp answer(socket, :POST, "/say", %{"room" => room}, body) do
    Registry.dispatch(Shop.PubSub, room, fn listeners ->
      for {pid, _} <- listeners, do: send(pid, {:said, body})
    end)
    reply(socket, ["{\"room\":", inspect(room), ",\"bytes\":", Integer.to_string(byte_size(body)), "}"])
  end

  defp answer(socket, :GET, "/listen", %{"room" => room}, _) do
    {:ok, _} = Registry.register(Shop.PubSub, room, nil)
    :gen_tcp.send(socket, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    :inet.setopts(socket, active: :once)
    listen(socket)
  end

  defp answer(socket, :GET, "/memory", _, _) do
    reply(socket, for({k, v} <- :erlang.memory(), do: "#{k} #{v}\n"))
  end

  defp answer(socket, _, _, _, _) do
    :gen_tcp.send(socket, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    :again
  end

  defp listen(socket) do
    receive do
      {:said, text} ->
        size = Integer.to_string(byte_size(text), 16)
        if :gen_tcp.send(socket, [size, "\r\n", text, "\r\n"]) == :ok, do: listen(socket)

      {:tcp, _, _} ->
        :inet.setopts(socket, active: :once)
        listen(socket)

      {:tcp_closed, _} ->
        :closed
    end
  end

  defp reply(socket, body) do
    head = ["HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: ",
            Integer.to_string(IO.iodata_length(body)), "\r\n\r\n"]
    if :gen_tcp.send(socket, [head, body]) == :ok, do: :again, else: :closed
  end
end

defmodule Shop.Acceptor do
  use Task, restart: :permanent

  def start_link(listener), do: Task.start_link(__MODULE__, :run, [listener])

  def run(listener) do
    {:ok, socket} = :gen_tcp.accept(listener)
    {:ok, pid} = Task.Supervisor.start_child(Shop.Connections, fn ->
      receive do: (:go -> Shop.Connection.serve(socket))
    end)
    :ok = :gen_tcp.controlling_process(socket, pid)
    send(pid, :go)
    run(listener)
  end
end

Logger.configure(level: :warning)
{:ok, _} = Application.ensure_all_started(:crypto)
:ets.new(:sessions, [:public, :named_table, read_concurrency: true, write_concurrency: true])
{:ok, listener} = :gen_tcp.listen(36080, [:binary, ip: {127, 0, 0, 1}, reuseaddr: true, backlog: 128,
                                          active: false, nodelay: true])
acceptors = for i <- 1..10, do: Supervisor.child_spec({Shop.Acceptor, listener}, id: {:acceptor, i})

{:ok, _} = Supervisor.start_link(
  [{Registry, keys: :duplicate, name: Shop.PubSub, partitions: 2}, Shop.Cache,
   {Task.Supervisor, name: Shop.Connections} | acceptors],
  strategy: :one_for_one, name: Shop.Supervisor)

IO.puts("ready")
Process.sleep(:infinity)
