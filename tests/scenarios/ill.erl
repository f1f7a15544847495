%% Illnesses on command, for the doctor's scenarios; scenario.erl passes `ill ...` on.
%%
%%   ill load DIR               the NIF ill_nif and the driver ill_drv
%%   ill once WHAT              one step, now
%%   ill start MS TIMES WHAT    a process of its own (registered ill_worker_N) takes that
%%                              many steps, one every MS milliseconds
%%   ill wait                   until all of those are done
%%   ill truth                  what NIF and driver hold by each way, and counts of ours
%%
%% WHAT, one step of it:
%%   nif FUNCTION WAY COUNT SIZE   ill_nif:FUNCTION(WAY, COUNT, SIZE)
%%   nif become | nif drop_cache | nif fragment COUNT SIZE KEEP | nif fragment_enif COUNT SIZE KEEP
%%   drv alloc|binary|malloc COUNT SIZE
%%   queue N          N messages to ill_queue, which reads none
%%   ets N            N rows into table ill_table, owned by ill_owner
%%   heap N           a list of N integers kept by ill_hoarder
%%   binaries N SIZE  N refc binaries kept by ill_binaries
%%   sub N SIZE       100 bytes each of N refc binaries kept by ill_sub
%%   idle N SIZE      N refc binaries shown to ill_idle, which drops them and sleeps
%%   procs N          N processes that wait
%%   atoms N          ill_atom_1 ...
%%   literals N       a persistent_term of N elements
%%   modules N        N new modules
%%   reload N         the same module N times, old code purged
%%   spike N SIZE     N binaries made and dropped again
-module(ill).
-export([command/1]).

command(["load", Dir]) ->
    ok = ill_nif:load(Dir),
    ok = erl_ddll:load_driver(Dir, "ill_drv"),
    true;
command(["once" | What]) -> step(What), true;
command(["start", Ms, Times | What]) ->
    Number = 1 + case get(ill_workers) of undefined -> 0; L -> length(L) end,
    {_, Monitor} = spawn_monitor(fun() ->
        register(list_to_atom("ill_worker_" ++ integer_to_list(Number)), self()),
        steps(int(Times), int(Ms), What)
    end),
    put(ill_workers, [Monitor | case get(ill_workers) of undefined -> []; W -> W end]),
    true;
command(["wait"]) ->
    [receive {'DOWN', M, process, _, normal} -> ok;
             {'DOWN', M, process, _, Why} -> error(Why) end || M <- get(ill_workers)],
    put(ill_workers, []),
    true;
command(["truth"]) ->
    {obj, ill_nif:truth() ++ [{W, V} || {drv, W, V} <- driver_truth()] ++ [{heap, heap_truth()}]}.

steps(0, _, _) -> ok;
steps(N, Ms, What) ->
    step(What),
    timer:sleep(Ms),
    steps(N - 1, Ms, What).

int(Text) -> list_to_integer(Text).

step(["nif", "become"]) -> ill_nif:become();
step(["nif", "drop_cache"]) -> ok = ill_nif:drop_cache();
step(["nif", "fragment", N, S, K]) -> ok = ill_nif:fragment(int(N), int(S), int(K));
step(["nif", "fragment_enif", N, S, K]) -> ok = ill_nif:fragment_enif(int(N), int(S), int(K));
step(["nif", F, Way, N, S]) ->
    ok = apply(ill_nif, list_to_atom(F), [list_to_atom(Way), int(N), int(S)]);
step(["drv", Way, N, S]) -> _ = driver(Way, int(N), int(S)), ok;
step(["queue", N]) ->
    Pid = holder(ill_queue, fun() -> timer:sleep(infinity) end),
    [Pid ! {message, I, lists:seq(1, 10)} || I <- lists:seq(1, int(N))];
step(["ets", N]) ->
    in(ill_owner, fun(S) ->
        T = case S of [] -> ets:new(ill_table, [public, named_table]); _ -> S end,
        First = ets:info(T, size),
        [ets:insert(T, {First + I, lists:seq(1, 20)}) || I <- lists:seq(1, int(N))],
        T
    end);
step(["heap", N]) -> in(ill_hoarder, fun(S) -> [lists:seq(1, int(N)) | S] end);
step(["binaries", N, Size]) ->
    in(ill_binaries, fun(S) -> [binary(int(Size)) || _ <- lists:seq(1, int(N))] ++ S end);
step(["sub", N, Size]) ->
    in(ill_sub, fun(S) ->
        [binary:part(binary(int(Size)), 5, 100) || _ <- lists:seq(1, int(N))] ++ S
    end);
step(["idle", N, Size]) ->
    Pid = holder(ill_idle, fun idle/0, [{min_bin_vheap_size, 50000000}, {min_heap_size, 100000}]),
    [begin Pid ! {look, self(), binary(int(Size))}, receive seen -> ok end end
     || _ <- lists:seq(1, int(N))];
step(["procs", N]) ->
    [spawn(fun() -> L = lists:seq(1, 200), receive stop -> L end end)
     || _ <- lists:seq(1, int(N))];
step(["atoms", N]) ->
    Base = erlang:system_info(atom_count),
    [list_to_atom("ill_atom_" ++ integer_to_list(Base + I)) || I <- lists:seq(1, int(N))];
step(["literals", N]) ->
    persistent_term:put({ill, erlang:unique_integer()}, lists:seq(1, int(N)));
step(["modules", N]) ->
    Base = erlang:unique_integer([positive]),
    [make_module(list_to_atom("ill_module_" ++ integer_to_list(Base + I)), I)
     || I <- lists:seq(1, int(N))];
step(["reload", N]) ->
    [begin make_module(ill_reloaded, I), code:purge(ill_reloaded) end
     || I <- lists:seq(1, int(N))];
step(["spike", N, Size]) ->
    {Pid, Monitor} = spawn_monitor(fun() ->
        _ = [binary(int(Size)) || _ <- lists:seq(1, int(N))]
    end),
    receive {'DOWN', Monitor, process, Pid, _} -> ok end.

binary(Size) -> binary:copy(<<16#4f>>, Size).

idle() ->
    receive {look, From, B} -> _ = byte_size(B), From ! seen, idle() end.

%% A registered process, made when it is first wanted.
holder(Name, Fun) -> holder(Name, Fun, []).

holder(Name, Fun, Options) ->
    case whereis(Name) of
        undefined ->
            Pid = spawn_opt(Fun, Options),
            register(Name, Pid),
            Pid;
        Pid -> Pid
    end.

in(Name, Fun) ->
    Pid = holder(Name, fun() -> hold([]) end),
    Pid ! {in, self(), Fun},
    receive {done, Pid} -> ok after 60000 -> error({stuck, Name}) end.

hold(State) ->
    receive {in, From, Fun} ->
        New = Fun(State),
        From ! {done, self()},
        hold(New)
    end.

%% About 10 KB of code each.
make_module(Name, Seed) ->
    Clause = fun(K) -> {clause, 1, [{integer, 1, K}], [],
                        [{tuple, 1, [{integer, 1, Seed}, {integer, 1, K * 7},
                                     {call, 1, {atom, 1, f}, [{integer, 1, K + 1}]}]}]} end,
    Forms = [{attribute, 1, module, Name}, {attribute, 1, export, [{f, 1}]},
             {function, 1, f, 1, [Clause(K) || K <- lists:seq(1, 100)]
              ++ [{clause, 1, [{var, 1, '_'}], [], [{atom, 1, ok}]}]}],
    {ok, Name, Code} = compile:forms(Forms),
    {module, Name} = code:load_binary(Name, "ill", Code).

%% The port belongs to a process that stays: its driver's memory is not given back.
driver(Way, N, Size) ->
    Self = self(),
    Pid = holder(ill_port, fun() -> port(open_port({spawn_driver, "ill_drv"}, []), []) end),
    Pid ! {control, Self, Way, N, Size},
    receive {controlled, V} -> V after 60000 -> error(stuck) end.

port(Port, Known) ->
    receive
        {control, From, Way, N, Size} ->
            Op = proplists:get_value(Way, [{"alloc", 0}, {"binary", 1}, {"malloc", 2}]),
            Answer = erlang:port_control(Port, Op, <<N:32, Size:32>>),
            <<V:64/signed>> = iolist_to_binary(Answer),
            From ! {controlled, V},
            port(Port, Known)
    end.

%% What ill_hoarder keeps: two words for each element of its lists.
heap_truth() ->
    case whereis(ill_hoarder) of
        undefined -> 0;
        _ -> Self = self(),
             in(ill_hoarder, fun(S) -> Self ! {elements, lists:sum([length(L) || L <- S])}, S end),
             receive {elements, N} -> N * 2 * erlang:system_info(wordsize) end
    end.

driver_truth() ->
    case whereis(ill_port) of
        undefined -> [];
        _ -> [{drv, list_to_atom("drv_" ++ W), driver(W, 0, 1)} || W <- ["alloc", "binary", "malloc"]]
    end.
