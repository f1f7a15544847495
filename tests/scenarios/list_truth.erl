%% What `beamray list` is compared with: things of every kind, made and held, and
%% what the node itself says of them. Called through scenario's `call`.
%%
%% The source compiles and runs on every release from OTP 21 on.
-module(list_truth).
-export([make_tables/0, tables/0, drop_table/1, slow_delete/1]).

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

%% A table so large that deleting it takes many turns, and a deleter that gets few.
slow_delete(N) ->
    T = ets:new(slow, [public]),
    [ets:insert(T, {I, lists:seq(1, 20)}) || I <- lists:seq(1, list_to_integer(N))],
    spawn(fun() -> ets:give_away(T, self(), x) end),
    true = ets:delete(T).
