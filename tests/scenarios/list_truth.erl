%% What `beamray list` is compared with: things of every kind, made and held, and
%% what the node itself says of them. Called through scenario's `call`.
%%
%% The source compiles and runs on every release from OTP 21 on.
-module(list_truth).
-export([make_tables/0, many_tables/1, tables/0, churn_tables/0, slow_table/1, drop_table/1, make_ports/0, ports/0,
         make_binaries/0, binaries/0, recon/0, calls/0,
         make_files/1, nif_functions/1]).

text(Term) -> iolist_to_binary(io_lib:format("~0p", [Term])).

hold(Fun) ->
    Self = self(),
    Pid = spawn(fun() -> State = Fun(), Self ! {self(), ready}, keep(State) end),
    M = monitor(process, Pid),
    receive {Pid, ready} -> demonitor(M, [flush]), Pid;
            {'DOWN', M, _, _, Why} -> error(Why) end.

keep(State) -> receive {run, From, Fun} -> From ! {self(), Fun(State)}, keep(State) end.

%% ---- ETS --------------------------------------------------------------------

%% One of each kind, and names that a terminal would obey.
make_tables() ->
    Heir = hold(fun() -> nothing end),
    Owner = hold(fun() -> [table(T, Heir) || T <- kinds()] end),
    register(list_tables, Owner),
    true.

many_tables(N) ->
    is_pid(hold(fun() -> [begin T = ets:new(many, []), ets:insert(T, [{I} || I <- lists:seq(1, 20)]), T
                          end || _ <- lists:seq(1, list_to_integer(N))] end)).

%% Tables that come and go all the time, of a name that tells them.
churn_tables() ->
    [spawn(fun churn_table/0) || _ <- lists:seq(1, 4)],
    true.

churn_table() ->
    Ts = [ets:new(coming_and_going, [public, {keypos, 2}]) || _ <- lists:seq(1, 20)],
    [ets:insert(T, {I, I}) || T <- Ts, I <- lists:seq(1, 10)],
    [ets:delete(T) || T <- Ts],
    churn_table().

%% Its owner dies: the VM takes long to give back a million rows.
slow_table(N) ->
    Holder = hold(fun() -> T = ets:new(slow_to_go, []),
                           [ets:insert(T, {I, I, I}) || I <- lists:seq(1, list_to_integer(N))], T end),
    exit(Holder, kill),
    true.

kinds() ->
    [{plain, [set], 100}, {one_bag, [bag, {keypos, 2}], 50}, {two_bag, [duplicate_bag], 50},
     {tree, [ordered_set], 3000}, {private_one, [private], 10},
     {catree, [ordered_set, public, {write_concurrency, true}], 5000},
     {fine, [set, public, {write_concurrency, true}], 20000},
     {central, [set, public, {write_concurrency, true}, {decentralized_counters, false}], 500},
     {decentral, [set, public, {write_concurrency, true}, {decentralized_counters, true}], 700},
     {decentral_tree, [ordered_set, public, {write_concurrency, true},
                       {decentralized_counters, true}], 900},
     {automatic, [set, public, {write_concurrency, auto}], 800},
     {reading, [set, public, {read_concurrency, true}], 5},
     {squeezed, [compressed], 300}, {empty, [], 0}, {named, [named_table, public], 7},
     {fixed, [public], 400}, {inherited, [], 3},
     {list_to_atom("\e[31mred\nnext line\t" ++ [8238, 1087, 10]), [named_table], 1},
     {list_to_atom(lists:duplicate(255, $x)), [named_table], 1}].

%% decentralized_counters came in 23, auto in 25: what a release does not know is left out.
table({Name, Options, N}, Heir) ->
    More = case Name of inherited -> [{heir, Heir, data}]; _ -> [] end,
    T = try ets:new(Name, Options ++ More)
        catch error:badarg -> ets:new(Name, [public])
        end,
    Workers = [spawn_monitor(fun() -> fill(T, Name, I, N) end) || I <- lists:seq(0, 3),
                                                                  ets:info(T, protection) =:= public],
    [receive {'DOWN', M, _, _, normal} -> ok end || {_, M} <- Workers],
    Workers =/= [] orelse [fill(T, Name, I, N) || I <- lists:seq(0, 3)],
    case Name of
        fixed -> ets:safe_fixtable(T, true), [ets:delete(T, {I, I}) || I <- lists:seq(1, N, 2)];
        _ -> ok
    end,
    T.

%% Each of four fills a quarter: on different schedulers, so counters have parts.
fill(T, one_bag, Part, N) ->
    [ets:insert(T, {I, I rem 5}) || I <- lists:seq(1, N), I rem 4 =:= Part];
fill(T, _, Part, N) ->
    [ets:insert(T, {{I, I}, <<"some payload">>}) || I <- lists:seq(1, N), I rem 4 =:= Part].

tables() ->
    [{obj, [{id, id(T)}, {owner, text(proplists:get_value(owner, Info))},
            {heir, heir(proplists:get_value(heir, Info))}, {fixed, ets:info(T, fixed)} |
            [{K, value(proplists:get_value(K, Info))}
             || K <- [name, size, memory, type, protection, keypos, named_table, compressed,
                      write_concurrency, read_concurrency, decentralized_counters],
                proplists:is_defined(K, Info)]]}
     || T <- ets:all(), Info <- [ets:info(T)], is_list(Info)].

id(T) when is_atom(T) -> T;
id(T) -> list_to_binary(ref_to_list(T)).

heir(none) -> null;
heir(Pid) -> text(Pid).

value(V) when is_integer(V); is_boolean(V) -> V;
value(V) -> atom_to_binary(V, utf8).

drop_table(Name) ->
    list_tables ! {run, self(), fun(Ts) -> [ets:delete(T) || T <- Ts,
                                            ets:info(T, name) =:= list_to_atom(Name)] end},
    receive {_, [true]} -> true end.

%% ---- ports ------------------------------------------------------------------

%% Sockets of both kinds, a connection with bytes both ways and one whose peer does
%% not read, programs with the names of their commands.
make_ports() ->
    Holder = hold(fun() ->
                      {ok, L} = gen_tcp:listen(0, [{ip, {127, 0, 0, 1}}, {active, false}, binary]),
                      {ok, N} = inet:port(L),
                      {A, B} = connection(L, N),
                      ok = gen_tcp:send(A, binary:copy(<<"x">>, 12345)),
                      {ok, _} = gen_tcp:recv(B, 12345),
                      {C, D} = connection(L, N),
                      stuff(C, 64),
                      {ok, U} = gen_udp:open(0, [{ip, {127, 0, 0, 1}}]),
                      %% a root without coreutils has a shell all the same
                      Echo = open_port({spawn, "sh -c 'read x; echo $x; read y'"}, [binary]),
                      port_command(Echo, "hello\n"),
                      receive {Echo, {data, <<"hello\n">>}} -> ok end,
                      File = open_port({spawn_executable, "/bin/sh"},
                                       [{args, ["-c", "read y"]}, {arg0, "sh"}]),
                      Long = open_port({spawn, "sh -c 'read y' " ++ lists:duplicate(400, $/)}, []),
                      Evil = open_port({spawn, "sh -c 'read y' \e[31m\t- red"}, []),
                      {L, A, B, C, D, U, Echo, File, Long, Evil}
                  end),
    register(list_ports, Holder),
    true.

connection(L, N) ->
    {ok, A} = gen_tcp:connect({127, 0, 0, 1}, N, [binary, {active, false},
                                                 {high_watermark, 1 bsl 26}]),
    {ok, B} = gen_tcp:accept(L),
    {A, B}.

stuff(_, 0) -> ok;
stuff(C, N) -> true = port_command(C, binary:copy(<<"y">>, 100000), [nosuspend]), stuff(C, N - 1).

ports() ->
    [{obj, [{port, list_to_binary(erlang:port_to_list(P))},
            {name, unicode:characters_to_binary(proplists:get_value(name, I), latin1)},
            {connected, text(proplists:get_value(connected, I))},
            {input, proplists:get_value(input, I)}, {output, proplists:get_value(output, I)},
            {os_pid, os_pid(I)}, {queue_size, element(2, erlang:port_info(P, queue_size))},
            {fd, fd(P, proplists:get_value(name, I))}]}
     || P <- erlang:ports(), I <- [erlang:port_info(P)], is_list(I)].

os_pid(I) -> case proplists:get_value(os_pid, I) of undefined -> null; N -> N end.

fd(P, "tcp_inet") -> {ok, N} = prim_inet:getfd(P), N;
fd(P, "udp_inet") -> {ok, N} = prim_inet:getfd(P), N;
fd(_, _) -> null.

%% ---- binaries ---------------------------------------------------------------

bin(Fill, Size) -> binary:copy(<<Fill:8>>, Size).

%% Holders of every kind; sizes say whose they are.
make_binaries() ->
    Shared = bin(1, 70001),
    Old = named(bin_old, fun() ->
                             Bs = [bin(I, 1000) || I <- lists:seq(1, 500)],
                             erlang:garbage_collect(), erlang:garbage_collect(), {Bs, Shared} end),
    named(bin_young, fun() -> {[bin(I, 2000) || I <- lists:seq(1, 300)], Shared, Shared} end),
    named(bin_parts, fun() -> B = bin(3, 100000),
                              {[binary:part(B, I, 500) || I <- lists:seq(1, 100)],
                               [X || <<X:100/binary>> <= bin(4, 10000)]} end),
    named(bin_append, fun() -> grow(<<>>, 5000) end),
    named(bin_others, fun() -> {[atomics:new(10, []) || _ <- lists:seq(1, 20)],
                                [ets:new(x, []) || _ <- lists:seq(1, 5)], fun() -> Shared end,
                                bin(5, 3000)} end),
    named(bin_rows, fun() -> Kinds = [[set], [ordered_set], [compressed], [bag],
                             [ordered_set, public, {write_concurrency, true}]],
                             Ts = [rows(O) || O <- Kinds], erlang:garbage_collect(), Ts end),
    %% messages that nobody takes: outside of the heap, and on it
    Off = spawn_opt(fun() -> register(bin_queue, self()), wait_forever() end,
                    [{message_queue_data, off_heap}]),
    On = spawn(fun() -> register(bin_queue_on, self()), wait_forever() end),
    [begin P ! {I, bin(I, 4000)} end || I <- lists:seq(1, 50), P <- [Off, On]],
    [begin P ! {I, Shared} end || I <- lists:seq(1, 3), P <- [Off, On]],
    %% a heap fragment that no collection has taken in yet
    _ = Old,
    true.

named(Name, Fun) -> Pid = hold(Fun), register(Name, Pid), Pid.

wait_forever() -> receive never -> ok end.

grow(B, 0) -> B;
grow(B, N) -> grow(<<B/binary, "0123456789">>, N - 1).

rows(Options) ->
    T = ets:new(bin_table, Options),
    [ets:insert(T, {I, bin(I, 6000), [bin(I, 7000)]}) || I <- lists:seq(1, 600)],
    T.

binaries() ->
    [{obj, [{pid, text(P)}, {count, length(B)}, {bytes, lists:sum([S || {_, S, _} <- B])},
            {distinct_bytes, lists:sum([S || {_, S, _} <- lists:ukeysort(1, B)])}]}
     || P <- processes(), {binary, B} <- [process_info(P, binary)]].

%% ---- allocators -------------------------------------------------------------

%% What recon_alloc itself says, if it can be had; its answers at one moment.
recon() ->
    case code:ensure_loaded(recon_alloc) of
        {module, _} ->
            recon_alloc:snapshot(),
            {obj, [{current, recon(current)}, {max, recon(max)},
                   {cache_hit_rates, [{obj, [{instance, N} | L]}
                                      || {{instance, N}, L} <- recon_alloc:cache_hit_rates()]}]};
        {error, Why} -> {obj, [{error, text(Why)}]}
    end.

recon(When) ->
    {obj, [{memory, {obj, [{K, recon_alloc:memory(K, When)}
                           || K <- [used, allocated, unused, usage]]}},
           {allocated_types, {obj, recon_alloc:memory(allocated_types, When)}},
           {allocated_instances, [[N, S] || {N, S} <- recon_alloc:memory(allocated_instances,
                                                                        When)]},
           {fragmentation, [{obj, [{allocator, A}, {instance, N} | L]}
                            || {{A, N}, L} <- recon_alloc:fragmentation(When)]},
           {average_block_sizes, [{obj, [{allocator, A} | L]}
                                  || {A, L} <- recon_alloc:average_block_sizes(When)]},
           {sbcs_to_mbcs, [[A, N, R] || {{A, N}, R} <- recon_alloc:sbcs_to_mbcs(When)]}]}.

%% ---- native code ------------------------------------------------------------

make_files(N) ->
    Holder = hold(fun() -> [begin {ok, F} = file:open("/dev/null", [raw, read]), F end
                            || _ <- lists:seq(1, list_to_integer(N))] end),
    is_pid(Holder).

%% Of a module whose exported functions are its NIFs, as the test's is but for load/1.
nif_functions(Module) ->
    [iolist_to_binary(io_lib:format("~s/~w", [F, A]))
     || {F, A} <- apply(list_to_atom(Module), module_info, [exports]),
        F =/= module_info, F =/= load].

%% Calls of every instance, as [Allocator, Instance, alloc, free, realloc].
calls() ->
    [[T, N | [calls(C, T, What) || What <- ["alloc", "free", "realloc"]]]
     || T <- erlang:system_info(alloc_util_allocators),
        {instance, N, I} <- case erlang:system_info({allocator, T}) of L when is_list(L) -> L;
                                                                      _ -> [] end,
        {calls, C} <- I].

calls(Calls, T, What) ->
    Base = lists:sublist(atom_to_list(T), length(atom_to_list(T)) - length("alloc")),
    case lists:keyfind(list_to_atom(Base ++ What), 1, Calls) of
        {_, Giga, Ones} -> Giga * 1000000000 + Ones;
        {_, N} -> N;
        false -> -1
    end.
