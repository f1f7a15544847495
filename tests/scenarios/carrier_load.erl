%% Carriers: what the VM says it made and gave back, and a load that does so by every
%% way there is: heaps that grow, large binaries, tables, literals, many small things.
%%
%%   measure(File, Rounds)  waits for the file, then notes the figures of all allocators,
%%                does the load, of which some stays, and notes them again. (That it is not
%%                told to begin has its reason: to read a command may take a carrier.)
%%   change()     {allocator: {figure: what it changed by}}
-module(carrier_load).
-export([measure/2, change/0]).
-export([keep/0, heap/1]).

-define(CALLS, [mseg_alloc, mseg_dealloc, mseg_realloc, sys_alloc, sys_free, sys_realloc]).
-define(COUNTS, [mseg_alloc_carriers, sys_alloc_carriers, mseg_alloc_carriers_size,
                 sys_alloc_carriers_size]).

snap(Name) ->
    put({carriers, Name}, maps:from_list(
        [{T, figures(T)} || T <- erlang:system_info(alloc_util_allocators)])),
    true.

figures(T) ->
    case erlang:system_info({allocator, T}) of
        Instances when is_list(Instances) ->
            lists:foldl(fun({instance, _, L}, Sum) -> add(of_instance(L), Sum) end, #{}, Instances);
        _ -> #{}
    end.

of_instance(L) ->
    {_, Calls} = lists:keyfind(calls, 1, L),
    C = maps:from_list([{K, G * 1000000000 + N} || {K, G, N} <- Calls, lists:member(K, ?CALLS)]),
    lists:foldl(fun({Section, As}, Sum) ->
                    case lists:keyfind(Section, 1, L) of
                        {_, Figures} ->
                            add(maps:from_list([{list_to_atom(As ++ atom_to_list(K)), V}
                                                || {K, V} <- Figures, lists:member(K, ?COUNTS)]), Sum);
                        false -> Sum
                    end
                end, C, [{mbcs, "mbc_"}, {mbcs_pool, "mbc_"}, {sbcs, "sbc_"}]).

add(A, B) ->
    maps:fold(fun(K, V, Sum) -> Sum#{K => V + maps:get(K, Sum, 0)} end, B, A).

change() ->
    A = get({carriers, "a"}),
    B = get({carriers, "b"}),
    {obj, [{T, {obj, [{K, V - maps:get(K, maps:get(T, A), 0)}
                      || {K, V} <- maps:to_list(maps:get(T, B))]}} || T <- maps:keys(B)]}.

measure(File, Rounds) ->
    N = list_to_integer(Rounds),
    snap("a"),
    wait(File),
    snap("a"),
    load(N),
    snap("b").

wait(File) ->
    case file:read_file_info(File) of
        {ok, _} -> ok;
        _ -> timer:sleep(20), wait(File)
    end.

load(N) ->
    Self = self(),
    Keeper = spawn(?MODULE, keep, []),
    register(carrier_keeper, Keeper),
    Keeper ! {make, N, Self},
    receive made -> ok end,
    [begin
         {P, Ref} = spawn_monitor(?MODULE, heap, [Self]),
         receive {heap, P} -> ok end,
         receive {'DOWN', Ref, _, _, _} -> ok end
     end || _ <- lists:seq(1, N)],
    timer:sleep(300), %% what other schedulers have to give back is given back later
    true.

%% What stays.
keep() ->
    receive
        {make, N, From} ->
            T = ets:new(carrier_keeper, [public]),
            [ets:insert(T, {I, lists:seq(1, 40)}) || I <- lists:seq(1, N * 1000)],
            Bins = [binary:copy(<<I:8>>, 1000000) || I <- lists:seq(1, N)],
            Small = [binary:copy(<<I:8>>, 3000) || I <- lists:seq(1, N * 100)],
            persistent_term:put(carrier_keeper, lists:seq(1, 300000)),
            From ! made,
            receive stop -> {T, Bins, Small} end
    end.

%% Heaps that grow step by step, large binaries, and all of it goes.
heap(From) ->
    L = lists:seq(1, 300000),
    B = [binary:copy(<<1>>, 700000) || _ <- lists:seq(1, 20)],
    T = ets:new(x, []),
    [ets:insert(T, {I, lists:seq(1, 30)}) || I <- lists:seq(1, 3000)],
    M = maps:from_list([{I, I} || I <- lists:seq(1, 20000)]),
    _ = length(L) + length(B) + maps:size(M),
    From ! {heap, self()}.
