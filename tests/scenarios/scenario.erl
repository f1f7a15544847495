%% A node that does what it is told and says what it knows of itself.
%%
%% It reads commands from stdin, one a line, words separated by blanks, and answers
%% each with one line of JSON on stdout: {"ok":VALUE} or {"error":"..."}. The first
%% line it prints is {"ready":PID}. It halts on `stop` or when stdin is closed.
%%
%%   ping                     "pong"
%%   info                     release, schedulers, counts and limits
%%   memory                   erlang:memory(); null where the VM refuses
%%   allocators               erlang:system_info({allocator, T}) of all, by instance
%%   snap NAME / get NAME     the same two, taken now and held as terms / as JSON
%%   instrument allocations|carriers
%%   processes / ets          what process_info and ets:info say of each
%%   gc                       collect every process
%%   spawn N / table N / binaries N SIZE / heap N WORDS / atoms N / literals N /
%%   sockets N / modules N / queue N         make that much state and hold it
%%   fragment binary|ets|heap MB             make it, then drop 15 of 16 at random
%%   drop WHAT                let go of what such a command holds
%%   churn start|stop|count   GC, binaries, ETS and messages on all schedulers
%%   app NAME                 application:ensure_all_started
%%   crypto N                 N digest contexts, held
%%   nif load DIR             then: nif leak_malloc|keep_malloc|leak_mmap|leak_enif|
%%                            keep_enif|leak_binary|leak_resource|leak_env|threads|
%%                            pattern|make_resources N SIZE; nif free_kept; nif truth;
%%                            nif dump FILE; nif malloc_info; nif stall MS
%%   call MODULE FUNCTION WORD...   what that function answers, given the words as
%%                            strings (list_truth: tables, binaries, ports)
%%   ill ...                  illnesses for the doctor: see ill.erl
%%   sleep MS, stop, crash
%%
%% Reading and answering goes over a port of its own (start the node with -noinput)
%% and happens in one process with a large heap: telling the truth must not change it
%% much. `snap` does not format anything for the same reason.
%%
%% The source compiles and runs on every release from OTP 21 on.
-module(scenario).
-export([main/1, main/0]).

-define(HEAP_WORDS, 2000000).

main() -> main([]).

main(_Args) ->
    Pid = spawn_opt(fun start/0, [{min_heap_size, ?HEAP_WORDS}, {fullsweep_after, 1000}]),
    register(scenario, Pid),
    ok.

start() ->
    process_flag(trap_exit, true),
    Port = open_port({fd, 0, 1}, [{line, 4096}, binary, eof]),
    answer(Port, {obj, [{ready, list_to_integer(os:getpid())}]}),
    loop(Port).

loop(Port) ->
    receive
        {Port, {data, {eol, Line}}} ->
            Words = string:lexemes(binary_to_list(Line), " \t\r"),
            Reply = try {obj, [{ok, command(Words)}]}
                    catch Class:Reason ->
                        {obj, [{error, text({Class, Reason})}]}
                    end,
            answer(Port, Reply),
            loop(Port);
        {Port, eof} -> erlang:halt(0, [{flush, false}]);
        {'EXIT', Port, _} -> erlang:halt(0, [{flush, false}]);
        _ -> loop(Port)
    end.

answer(Port, Value) -> port_command(Port, [json(Value), $\n]).

%% ---- commands ---------------------------------------------------------------

command(["ping"]) -> <<"pong">>;
command(["info"]) -> info();
command(["memory"]) -> memory(vm_memory());
command(["allocators"]) -> allocators(vm_allocators());
command(["snap", Name]) ->
    put({snap, Name}, {vm_memory(), vm_allocators()}),
    true;
command(["get", Name]) ->
    {Memory, Allocators} = get({snap, Name}),
    {obj, [{memory, memory(Memory)}, {allocators, allocators(Allocators)}]};
command(["instrument", "allocations"]) -> allocations();
command(["instrument", "carriers"]) -> carriers();
command(["processes"]) -> processes_truth();
command(["ets"]) -> ets_truth();
command(["gc"]) ->
    [erlang:garbage_collect(P) || P <- processes(), P =/= self()],
    true;
command(["spawn", N]) -> hold(spawn, fun() -> spawn_many(int(N)) end);
command(["table", N]) -> hold(table, fun() -> table(int(N)) end);
command(["binaries", N, Size]) -> hold(binaries, fun() -> binaries(int(N), int(Size)) end);
%% Binaries in a process with any name at all; it comes as base64.
command(["hostile", Name, N]) ->
    hold(list_to_atom(Name), fun() ->
        register(list_to_atom(unicode:characters_to_list(base64:decode(Name))), self()),
        binaries(int(N), 3900)
    end);
command(["heap", N, Words]) -> hold(heap, fun() -> heaps(int(N), int(Words)) end);
command(["atoms", N]) -> atoms(int(N));
command(["literals", N]) -> literals(int(N));
command(["sockets", N]) -> hold(sockets, fun() -> sockets(int(N)) end);
command(["modules", N]) -> modules(int(N));
command(["queue", N]) -> hold(queue, fun() -> queue(int(N)) end);
command(["fragment", "binary", MB]) -> hold(fragment, fun() -> fragment_binary(int(MB)) end);
command(["fragment", "ets", MB]) -> hold(fragment, fun() -> fragment_ets(int(MB)) end);
command(["fragment", "heap", MB]) -> hold(fragment, fun() -> fragment_heap(int(MB)) end);
command(["drop", What]) -> drop(list_to_existing_atom(What));
command(["churn", "start"]) -> churn_start();
command(["churn", "stop"]) -> churn_stop();
command(["churn", "count"]) -> counters:get(get(churn_counter), 1);
command(["app", Name]) ->
    {ok, _} = application:ensure_all_started(list_to_atom(Name)),
    true;
command(["crypto", N]) ->
    {ok, _} = application:ensure_all_started(crypto),
    hold(crypto, fun() -> [crypto:hash_init(sha256) || _ <- lists:seq(1, int(N))] end);
command(["nif", "load", Dir]) -> ok = leak_nif:load(Dir), true;
command(["nif", "free_kept"]) -> ok = leak_nif:free_kept(), true;
command(["nif", "truth"]) -> nif_truth();
command(["nif", "dump", File]) -> ok = leak_nif:dump(File), true;
command(["nif", "malloc_info"]) -> leak_nif:malloc_info();
command(["nif", "stall", MS]) ->
    {Longest, Calls} = leak_nif:stall(int(MS)),
    {obj, [{longest_ns, Longest}, {calls, Calls}]};
command(["nif", "make_resources", N, Size]) ->
    hold(resources, fun() -> leak_nif:make_resources(int(N), int(Size)) end);
command(["nif", What, N, Size]) ->
    ok = apply(leak_nif, list_to_existing_atom(What), [int(N), int(Size)]),
    true;
command(["call", Module, Function | Args]) ->
    apply(list_to_atom(Module), list_to_atom(Function), Args);
command(["bench", "start", Kind]) -> bench_load:start(list_to_atom(Kind));
command(["bench", "count"]) -> bench_load:count();
command(["bench", "stop"]) -> bench_load:stop();
command(["cxx", "load", Dir]) -> ok = cxx_nif:load(Dir), true;
command(["cxx", "leak", N, Size]) -> cxx_nif:leak(int(N), int(Size));
command(["ill" | Words]) -> ill:command(Words);
command(["sleep", MS]) -> timer:sleep(int(MS)), true;
command(["stop"]) -> erlang:halt(0, [{flush, false}]);
command(["crash"]) -> erlang:halt(abort).

int(Text) -> list_to_integer(Text).

%% State is held by a process of its own, so that dropping it is exact.
hold(What, Fun) ->
    Self = self(),
    Ref = make_ref(),
    Pid = spawn(fun() -> holder(Self, Ref, Fun) end),
    Monitor = monitor(process, Pid),
    receive
        {Ref, ready} ->
            demonitor(Monitor, [flush]),
            put({held, What}, [Pid | held(What)]),
            true;
        {'DOWN', Monitor, _, _, Reason} -> error(Reason)
    end.

holder(Parent, Ref, Fun) ->
    State = Fun(),
    erlang:garbage_collect(),
    Parent ! {Ref, ready},
    keep(State).

keep(State) ->
    receive
        drop -> drop_state(State);
        _ -> keep(State)
    end.

%% What processes hold goes when they go.
drop_state(State) when is_list(State) ->
    [exit(P, kill) || P <- State, is_pid(P)],
    ok;
drop_state(_) -> ok.

held(What) -> case get({held, What}) of undefined -> []; Pids -> Pids end.

drop(What) ->
    [begin
         Monitor = monitor(process, Pid),
         Pid ! drop,
         receive {'DOWN', Monitor, _, _, _} -> ok end
     end || Pid <- held(What)],
    put({held, What}, []),
    true.

%% ---- truth ------------------------------------------------------------------

info() ->
    {obj, [{otp_release, list_to_binary(erlang:system_info(otp_release))},
           {erts_version, list_to_binary(erlang:system_info(version))},
           {flavor, try erlang:system_info(emu_flavor) catch _:_ -> emu end},
           {wordsize, erlang:system_info(wordsize)},
           {schedulers, erlang:system_info(schedulers)},
           {dirty_cpu_schedulers, erlang:system_info(dirty_cpu_schedulers)},
           {dirty_io_schedulers, erlang:system_info(dirty_io_schedulers)},
           {process_count, erlang:system_info(process_count)},
           {process_limit, erlang:system_info(process_limit)},
           {port_count, erlang:system_info(port_count)},
           {port_limit, erlang:system_info(port_limit)},
           {atom_count, erlang:system_info(atom_count)},
           {atom_limit, erlang:system_info(atom_limit)},
           {ets_count, erlang:system_info(ets_count)},
           {ets_limit, erlang:system_info(ets_limit)}]}.

vm_memory() -> try erlang:memory() catch _:_ -> null end.

memory(null) -> null;
memory(Pairs) -> {obj, Pairs}.

vm_allocators() ->
    [{T, erlang:system_info({allocator, T})} || T <- erlang:system_info(alloc_util_allocators)].

allocators(All) -> [allocator(T, Info) || {T, Info} <- All, is_list(Info)].

allocator(T, Info) ->
    Instances = [{obj, [{instance, N} | sections(I)]} || {instance, N, I} <- Info],
    {obj, [{name, T}, {instances, length(Instances)}, {by_instance, Instances}]}.

sections(Info) ->
    [{S, section(proplists:get_value(S, Info))} || S <- [mbcs, mbcs_pool, sbcs],
                                                  lists:keymember(S, 1, Info)].

%% {blocks, [{Type, [{count, Now, Max, Ever}, {size, ...}]}]}: an instance may hold blocks
%% of another allocator's type in carriers that it took from the pool.
section(Section) ->
    {_, Blocks} = lists:keyfind(blocks, 1, Section),
    {obj, [{blocks, sum(count, Blocks)}, {blocks_size, sum(size, Blocks)},
           {carriers, element(2, lists:keyfind(carriers, 1, Section))},
           {carriers_size, element(2, lists:keyfind(carriers_size, 1, Section))},
           {types, {obj, [{T, {obj, [{K, element(2, V)} || V <- L, K <- [element(1, V)]]}}
                          || {T, L} <- Blocks]}}]}.

sum(Key, Blocks) ->
    lists:sum([element(2, lists:keyfind(Key, 1, Figures)) || {_Type, Figures} <- Blocks]).

allocations() ->
    {ok, {Start, Unscanned, Origins}} = instrument:allocations(#{scheduler_ids => all_ids(),
                                                                 histogram_start => 512}),
    Tags = [{obj, [{owner, origin(O)}, {type, Type}, {blocks, tuple_sum(H)},
                   {histogram, tuple_to_list(H)}]}
            || {O, Types} <- maps:to_list(Origins), {Type, H} <- maps:to_list(Types)],
    {obj, [{histogram_start, Start}, {unscanned, Unscanned}, {tags, Tags}]}.

all_ids() -> lists:seq(0, erlang:system_info(schedulers)).

origin(O) when is_atom(O) -> O;
origin(O) -> text(O).

tuple_sum(T) -> lists:sum(tuple_to_list(T)).

carriers() ->
    {ok, {Start, Carriers}} = instrument:carriers(#{scheduler_ids => all_ids(),
                                                    histogram_start => 512}),
    {obj, [{histogram_start, Start}, {carriers, [carrier(C) || C <- Carriers]}]}.

carrier({Type, InPool, Total, Unscanned, Allocated, Free}) ->
    {obj, [{allocator, Type}, {in_pool, InPool}, {size, Total}, {unscanned, Unscanned},
           {allocated, [{obj, [{type, T}, {blocks, N}, {bytes, B}]} || {T, N, B} <- Allocated]},
           {free, tuple_to_list(Free)}]}.

processes_truth() ->
    Keys = [registered_name, memory, message_queue_len, heap_size, total_heap_size, stack_size,
            reductions, current_function],
    [{obj, [{pid, text(P)} | [{K, process_value(K, V)} || {K, V} <- Info]]}
     || P <- processes(), Info <- [process_info(P, Keys)], is_list(Info)].

process_value(registered_name, []) -> null;
process_value(current_function, {M, F, A}) ->
    iolist_to_binary(io_lib:format("~w:~w/~w", [M, F, A]));
process_value(_, V) when is_integer(V); is_atom(V) -> V;
process_value(_, V) -> text(V).

ets_truth() ->
    [{obj, [{name, ets:info(T, name)}, {size, ets:info(T, size)}, {memory, ets:info(T, memory)},
            {type, ets:info(T, type)}]} || T <- ets:all(), ets:info(T, size) =/= undefined].

nif_truth() ->
    {Kinds, TableBytes, Destroyed} = leak_nif:truth(),
    {obj, [{K, {obj, [{count, N}, {bytes, B}, {usable, U}]}} || {K, N, B, U} <- Kinds]
          ++ [{table_bytes, TableBytes}, {destroyed, Destroyed}]}.

%% ---- state ------------------------------------------------------------------

spawn_many(N) ->
    [spawn(fun() -> erlang:hibernate(timer, sleep, [infinity]) end) || _ <- lists:seq(1, N)].

table(N) ->
    T = ets:new(scenario_table, [public]),
    [ets:insert(T, {I, I, <<"some payload">>}) || I <- lists:seq(1, N)],
    {T}.

binaries(N, Size) -> {[binary(I, Size) || I <- lists:seq(1, N)]}.

%% A refc binary of exactly that size (65 bytes at least), not a writable one with spare room.
binary(Fill, Size) -> binary:copy(<<Fill:8>>, Size).

heaps(N, Words) ->
    Self = self(),
    Pids = [spawn(fun() ->
                      List = lists:seq(1, Words div 2),
                      erlang:garbage_collect(),
                      Self ! {heap, self()},
                      keep(List)
                  end) || _ <- lists:seq(1, N)],
    [receive {heap, P} -> ok end || P <- Pids],
    Pids.

atoms(N) ->
    Base = erlang:system_info(atom_count),
    _ = [list_to_atom("scenario_atom_" ++ integer_to_list(Base + I)) || I <- lists:seq(1, N)],
    true.

literals(N) ->
    persistent_term:put({scenario, erlang:unique_integer()}, lists:seq(1, N)),
    true.

sockets(N) ->
    {[begin {ok, S} = gen_udp:open(0, [{ip, {127, 0, 0, 1}}]), S end || _ <- lists:seq(1, N)]}.

modules(N) ->
    Base = erlang:unique_integer([positive]),
    [begin
         Name = list_to_atom("scenario_module_" ++ integer_to_list(Base + I)),
         Forms = [{attribute, 1, module, Name}, {attribute, 1, export, [{f, 1}]},
                  {function, 1, f, 1, [{clause, 1, [{var, 1, 'X'}], [],
                                        [{tuple, 1, [{var, 1, 'X'}, {integer, 1, I}]}]}]}],
         {ok, Name, Code} = compile:forms(Forms),
         {module, Name} = code:load_binary(Name, "scenario", Code)
     end || I <- lists:seq(1, N)],
    true.

queue(N) ->
    Pid = spawn(fun() -> timer:sleep(infinity) end),
    [Pid ! {message, I, lists:seq(1, 10)} || I <- lists:seq(1, N)],
    [Pid].

%% Blocks of 1-8 KiB in multiblock carriers; one of 16 stays, so nearly every carrier does.
fragment_binary(MB) ->
    rand:seed(exsplus, {1, 2, 3}),
    Count = MB * 1024 * 1024 div 4608,
    All = [binary(I, 1024 + rand:uniform(7168)) || I <- lists:seq(1, Count)],
    {[B || {I, B} <- numbered(All), I rem 16 =:= 0]}.

numbered(List) -> lists:zip(lists:seq(1, length(List)), List).

fragment_ets(MB) ->
    T = ets:new(scenario_fragments, [public]),
    Count = MB * 1024 * 1024 div 1024,
    [ets:insert(T, {I, lists:seq(1, 60)}) || I <- lists:seq(1, Count)],
    [ets:delete(T, I) || I <- lists:seq(1, Count), I rem 16 =/= 0],
    {T}.

fragment_heap(MB) ->
    Count = MB * 1024 * 1024 div 22000,
    Pids = heaps(Count, 2400),
    [begin M = monitor(process, P), exit(P, kill), receive {'DOWN', M, _, _, _} -> ok end end
     || {I, P} <- numbered(Pids), I rem 16 =/= 0],
    [P || {I, P} <- numbered(Pids), I rem 16 =:= 0].

%% ---- churn ------------------------------------------------------------------

churn_start() ->
    Counter = counters:new(1, [write_concurrency]),
    put(churn_counter, Counter),
    Table = ets:new(scenario_churn, [public, {write_concurrency, true}]),
    N = 2 * erlang:system_info(schedulers),
    Workers = [spawn(fun() -> rand:seed(exsplus, {I, 2, 3}), churn_wait(Counter, Table, I) end)
               || I <- lists:seq(1, N)],
    [W ! {peers, list_to_tuple(Workers)} || W <- Workers],
    put(churn_workers, Workers),
    put(churn_table, Table),
    true.

churn_wait(Counter, Table, I) ->
    receive {peers, Peers} -> churn_loop(Counter, Table, I, Peers, []) end.

churn_loop(Counter, Table, I, Peers, Held) ->
    B = binary(I, 65 + rand:uniform(20000)),
    Big = case rand:uniform(50) of 1 -> binary(I, 1000000); _ -> <<>> end,
    Key = {I, rand:uniform(2000)},
    ets:insert(Table, {Key, lists:seq(1, rand:uniform(50)), B}),
    ets:delete(Table, {I, rand:uniform(2000)}),
    element(1 + rand:uniform(tuple_size(Peers)) - 1, Peers) ! {work, B, lists:seq(1, 20)},
    case rand:uniform(20) of
        1 -> spawn(fun() -> lists:sum(lists:seq(1, 1000 + rand:uniform(20000))) end);
        2 -> erlang:garbage_collect();
        _ -> ok
    end,
    churn_drain(),
    counters:add(Counter, 1, 1),
    churn_loop(Counter, Table, I, Peers, lists:sublist([B, Big | Held], rand:uniform(200))).

churn_drain() -> receive {work, _, _} -> churn_drain() after 0 -> ok end.

churn_stop() ->
    [begin M = monitor(process, P), exit(P, kill), receive {'DOWN', M, _, _, _} -> ok end end
     || P <- get(churn_workers)],
    ets:delete_all_objects(get(churn_table)),
    true.

%% ---- JSON -------------------------------------------------------------------

text(Term) -> iolist_to_binary(io_lib:format("~0p", [Term])).

json({obj, Pairs}) ->
    [${, join([[json_key(K), $:, json(V)] || {K, V} <- Pairs]), $}];
json(null) -> "null";
json(true) -> "true";
json(false) -> "false";
json(A) when is_atom(A) -> json_string(atom_to_binary(A, utf8));
json(I) when is_integer(I) -> integer_to_list(I);
json(F) when is_float(F) -> io_lib:format("~w", [F]);
json(B) when is_binary(B) -> json_string(B);
json(L) when is_list(L) -> [$[, join([json(E) || E <- L]), $]].

json_key(K) when is_atom(K) -> json_string(atom_to_binary(K, utf8));
json_key(K) -> json_string(K).

join([]) -> [];
join([First | Rest]) -> [First | [[$,, E] || E <- Rest]].

json_string(B) -> [$", [escape(C) || <<C>> <= B], $"].

escape($") -> "\\\"";
escape($\\) -> "\\\\";
escape(C) when C < 32 -> io_lib:format("\\u~4.16.0b", [C]);
escape(C) -> C.
