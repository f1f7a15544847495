%% Loads for the tracer: a known chain of calls down to a NIF that leaks, beside
%% what else a node may do.
%%
%%   erl ... -s trace_load start KIND NIFDIR WORKDIR COUNT BYTES ROUNDS PAUSE_MS
%%
%% writes WORKDIR/ready, waits for WORKDIR/go, has the registered process
%% trace_leaker call KIND(COUNT, BYTES) ROUNDS times, and writes the NIF's count of
%% bytes to WORKDIR/done.
-module(trace_load).
-export([start/1]).
-export([leak_normal/2, leak_dirty_cpu/2, leak_dirty_io/2, leak_mmap/2, leak_populate/2,
         leak_realloc/2, leak_new/2, leak_thread/2, no_leak/2, truth/0,
         leak_calloc/2, leak_aligned/2, leak_strdup/2, leak_old/2, leak_mixed/2, churn_malloc/2,
         burn_normal/2, burn_dirty/2, nap_normal/2, nap_dirty/2,
         become/2, fork_child/2, burn_thread/2]).
-export([outer/3, middle/3, bottom/3, churn/1, spin/2]).

leak_normal(_, _) -> erlang:nif_error(not_loaded).
leak_dirty_cpu(_, _) -> erlang:nif_error(not_loaded).
leak_dirty_io(_, _) -> erlang:nif_error(not_loaded).
leak_mmap(_, _) -> erlang:nif_error(not_loaded).
leak_populate(_, _) -> erlang:nif_error(not_loaded).
leak_realloc(_, _) -> erlang:nif_error(not_loaded).
leak_new(_, _) -> erlang:nif_error(not_loaded).
leak_thread(_, _) -> erlang:nif_error(not_loaded).
no_leak(_, _) -> erlang:nif_error(not_loaded).
leak_calloc(_, _) -> erlang:nif_error(not_loaded).
leak_aligned(_, _) -> erlang:nif_error(not_loaded).
leak_strdup(_, _) -> erlang:nif_error(not_loaded).
leak_old(_, _) -> erlang:nif_error(not_loaded).
leak_mixed(_, _) -> erlang:nif_error(not_loaded).
churn_malloc(_, _) -> erlang:nif_error(not_loaded).
burn_normal(_, _) -> erlang:nif_error(not_loaded).
burn_dirty(_, _) -> erlang:nif_error(not_loaded).
become(_, _) -> erlang:nif_error(not_loaded).
fork_child(_, _) -> erlang:nif_error(not_loaded).
burn_thread(_, _) -> erlang:nif_error(not_loaded).
nap_normal(_, _) -> erlang:nif_error(not_loaded).
nap_dirty(_, _) -> erlang:nif_error(not_loaded).
truth() -> erlang:nif_error(not_loaded).

start([Kind, Nif, Dir | Numbers]) ->
    ok = erlang:load_nif(filename:join(text(Nif), "trace_nif"), 0),
    [Count, Bytes, Rounds, Pause] = [list_to_integer(text(N)) || N <- Numbers],
    %% On one scheduler: each has a malloc arena of its own.
    register(trace_leaker,
             spawn_opt(fun() -> leaker(Kind, text(Dir), Count, Bytes, Rounds, Pause) end,
                       [{scheduler, 1}])).

text(Atom) -> atom_to_list(Atom).

leaker(Kind, Dir, Count, Bytes, Rounds, Pause) ->
    [spawn(?MODULE, churn, [0]) || Kind =:= slow, _ <- [1, 2]],
    [timer:sleep(1500) || Kind =:= slow],
    %% What the arena has free already is filled without a fault.
    ok = leak_normal(10000, 1000),
    {Before, _} = truth(),
    ok = file:write_file(filename:join(Dir, "ready"), os:getpid()),
    wait(filename:join(Dir, "go")),
    Clocks = clocks_start(),
    rounds(Kind, Count, Bytes, Rounds, Pause),
    ok = clocks_stop(Clocks, filename:join(Dir, "clocks")),
    {Taken, Calls} = truth(),
    Text = io_lib:format("~b ~b~n", [Taken - Before, Calls]),
    ok = file:write_file(filename:join(Dir, "done.new"), Text),
    ok = file:rename(filename:join(Dir, "done.new"), filename:join(Dir, "done")),
    timer:sleep(infinity).

%% What the VM says about its schedulers meanwhile, one line each: "wall KIND NUMBER
%% ACTIVE_NS TOTAL_NS", "acct KIND NUMBER STATE NS", "long COUNT LONGEST_MS".
clocks_start() ->
    Leaker = self(),
    Watch = spawn_opt(fun() -> long_schedules(Leaker, 0, 0) end, [{priority, high}]),
    erlang:system_monitor(Watch, [{long_schedule, 100}]),
    erlang:system_flag(scheduler_wall_time, true),
    catch erlang:system_flag(microstate_accounting, reset),
    catch erlang:system_flag(microstate_accounting, true),
    {lists:sort(erlang:statistics(scheduler_wall_time_all)), Watch}.

long_schedules(Leaker, N, Longest) ->
    receive
        {monitor, Leaker, long_schedule, Info} ->
            {_, Ms} = lists:keyfind(timeout, 1, Info),
            long_schedules(Leaker, N + 1, max(Longest, Ms));
        {tell, Leaker} -> Leaker ! {long, N, Longest};
        _ -> long_schedules(Leaker, N, Longest)
    end.

clocks_stop({Before, Watch}, File) ->
    After = lists:sort(erlang:statistics(scheduler_wall_time_all)),
    Acct = try erlang:statistics(microstate_accounting) catch _:_ -> [] end,
    catch erlang:system_flag(microstate_accounting, false),
    erlang:system_flag(scheduler_wall_time, false),
    Normal = erlang:system_info(schedulers),
    Dirty = erlang:system_info(dirty_cpu_schedulers),
    Ns = fun(T) -> erlang:convert_time_unit(T, native, nanosecond) end,
    Perf = fun(T) -> erlang:convert_time_unit(T, perf_counter, nanosecond) end,
    Who = fun(I) when I =< Normal -> {scheduler, I};
             (I) when I =< Normal + Dirty -> {dirty_cpu, I - Normal};
             (I) -> {dirty_io, I - Normal - Dirty}
          end,
    Wall = [begin {K, No} = Who(I), io_lib:format("wall ~s ~b ~b ~b~n", [K, No, Ns(A1 - A0), Ns(T1 - T0)]) end
            || {{I, A0, T0}, {I, A1, T1}} <- lists:zip(Before, After)],
    States = [[io_lib:format("acct ~s ~b ~s ~b~n", [Type, Id, S, Perf(T)]) || {S, T} <- maps:to_list(C)]
              || #{type := Type, id := Id, counters := C} <- Acct],
    timer:sleep(1), % so that the last schedule is over and has been told of
    Watch ! {tell, self()},
    Long = receive {long, N, Longest} -> io_lib:format("long ~b ~b~n", [N, Longest]) end,
    erlang:system_monitor(undefined),
    file:write_file(File, [Wall, States, Long]).

wait(File) ->
    case file:read_file_info(File) of
        {ok, _} -> ok;
        _ -> timer:sleep(20), wait(File)
    end.

rounds(_, _, _, 0, _) -> ok;
rounds(Kind, Count, Bytes, N, Pause) ->
    {outer, {middle, {bottom, _}}} = outer(Kind, Count, Bytes),
    timer:sleep(Pause),
    rounds(Kind, Count, Bytes, N - 1, Pause).

%% None of these is a tail call: each leaves its frame.
outer(Kind, Count, Bytes) -> {outer, middle(Kind, Count, Bytes)}.
middle(Kind, Count, Bytes) -> {middle, bottom(Kind, Count, Bytes)}.
bottom(leak_normal, Count, Bytes) -> {bottom, leak_normal(Count, Bytes)};
bottom(leak_dirty_cpu, Count, Bytes) -> {bottom, leak_dirty_cpu(Count, Bytes)};
bottom(leak_dirty_io, Count, Bytes) -> {bottom, leak_dirty_io(Count, Bytes)};
bottom(leak_mmap, Count, Bytes) -> {bottom, leak_mmap(Count, Bytes)};
bottom(leak_populate, Count, Bytes) -> {bottom, leak_populate(Count, Bytes)};
bottom(leak_realloc, Count, Bytes) -> {bottom, leak_realloc(Count, Bytes)};
bottom(leak_new, Count, Bytes) -> {bottom, leak_new(Count, Bytes)};
bottom(leak_thread, Count, Bytes) -> {bottom, leak_thread(Count, Bytes)};
bottom(no_leak, Count, Bytes) -> {bottom, no_leak(Count, Bytes)};
bottom(leak_calloc, Count, Bytes) -> {bottom, leak_calloc(Count, Bytes)};
bottom(leak_aligned, Count, Bytes) -> {bottom, leak_aligned(Count, Bytes)};
bottom(leak_strdup, Count, Bytes) -> {bottom, leak_strdup(Count, Bytes)};
bottom(leak_old, Count, Bytes) -> {bottom, leak_old(Count, Bytes)};
bottom(leak_mixed, Count, Bytes) -> {bottom, leak_mixed(Count, Bytes)};
bottom(churn_malloc, Count, Bytes) -> {bottom, churn_malloc(Count, Bytes)};
bottom(slow, Count, Bytes) -> {bottom, leak_normal(Count, Bytes)};
bottom(deep, Count, Bytes) -> {bottom, deep(Bytes, Count)};
bottom(burn_normal, Count, Ms) -> {bottom, burn_normal(Count, Ms)};
bottom(burn_dirty, Count, Ms) -> {bottom, burn_dirty(Count, Ms)};
bottom(reload, Count, _) -> reload(), {bottom, trace_hot:run(Count)};
bottom(become, Count, Bytes) -> {bottom, become(Count, Bytes)};
bottom(fork_child, Count, Mb) -> {bottom, fork_child(Count, Mb)};
bottom(burn_thread, Count, Ms) -> {bottom, burn_thread(Count, Ms)};
bottom(nap_normal, Count, Ms) -> {bottom, nap_normal(Count, Ms)};
bottom(nap_dirty, Count, Ms) -> {bottom, nap_dirty(Count, Ms)};
bottom(idle, _, Ms) -> timer:sleep(Ms), {bottom, ok};
bottom(duty, Share, Ms) -> duty(Share, erlang:monotonic_time(microsecond), Ms * 1000), {bottom, ok};
bottom(driver, Count, Size) -> driver(Count, binary:copy(<<"beamray ">>, Size div 8)), {bottom, ok};
bottom(spin, Count, _) -> {bottom, spin(Count, 0)};
bottom(body, Count, Depth) -> {bottom, body(Depth, Count)};
bottom(collect, Count, Size) -> {bottom, collect(Count, Size)};
bottom(hash, Count, Size) -> {bottom, hash(Count, lists:seq(1, Size))};
bottom(encode, Count, Size) -> {bottom, encode(Count, lists:seq(1, Size))};
bottom(table, Count, Size) ->
    Table = ets:new(table, []),
    Result = table(Count, Table, lists:seq(1, Size)),
    ets:delete(Table),
    {bottom, Result};
bottom(churn, Count, _) -> [spawn(?MODULE, churn, [0]) || _ <- lists:seq(1, Count)], {bottom, ok}.

%% Body recursion of that depth, with the leak at its end.
deep(0, Count) -> leak_normal(Count, 10000);
deep(N, Count) -> case deep(N - 1, Count) of ok -> ok end.

%% Garbage without end: heaps grow and shrink, faults by the ten thousand.
churn(N) ->
    L = [{X, N} || X <- lists:seq(1, 20000 + erlang:phash2(N, 180000))],
    _ = length(lists:reverse(L)),
    churn(N + 1).

%% Work of known shape for processor samples.

%% A loop in plain Erlang.
spin(0, X) -> X;
spin(N, X) -> spin(N - 1, (X * 31 + N) band 16#ffffff).

%% A new generation of trace_hot; the old one is purged.
reload() ->
    {Module, Code, File} = code:get_object_code(trace_hot),
    code:purge(Module),
    {module, Module} = code:load_binary(Module, File, Code).

%% Busy for Share percent of every 20 ms.
duty(_, _, Left) when Left =< 0 -> ok;
duty(Share, Start, Left) ->
    Rest = Start + Share * 200 - erlang:monotonic_time(microsecond),
    busy(Start + Share * 200, Rest),
    Share < 100 andalso receive after 20 - Share div 5 -> ok end,
    Now = erlang:monotonic_time(microsecond),
    duty(Share, Now, Left - (Now - Start)).
busy(_, Rest) when Rest =< 0 -> ok;
busy(End, _) -> spin(2000, 0), busy(End, End - erlang:monotonic_time(microsecond)).

%% Work in a linked-in driver: it copies.
driver(Count, Bin) ->
    {ok, File} = ram_file:open(Bin, [read, write, binary, ram]),
    [ok = ram_file:pwrite(File, 0, Bin) || _ <- lists:seq(1, Count)],
    ok = ram_file:close(File).

%% The same below that many frames of body recursion.
body(0, Count) -> spin(Count, 0);
body(N, Count) -> [body(N - 1, Count)].

%% Garbage, collected.
collect(0, _) -> ok;
collect(N, Size) -> keep(lists:seq(1, Size)), collect(N - 1, Size).
keep(L) -> length(L) > 0 orelse exit(empty).

%% BIFs that run on for a while and never yield, that trap, and that are called often.
hash(0, _) -> ok;
hash(N, L) -> _ = erlang:phash2(L), hash(N - 1, L).
encode(0, _) -> ok;
encode(N, L) -> _ = erlang:md5(term_to_binary(L)), encode(N - 1, L).
table(0, _, _) -> ok;
table(N, T, L) -> [ets:insert(T, {X, N}) || X <- L], table(N - 1, T, L).
