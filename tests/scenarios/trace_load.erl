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
         burn_normal/2, burn_dirty/2]).
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
burn_normal(_, _) -> erlang:nif_error(not_loaded).
burn_dirty(_, _) -> erlang:nif_error(not_loaded).
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
    rounds(Kind, Count, Bytes, Rounds, Pause),
    {Taken, Calls} = truth(),
    Text = io_lib:format("~b ~b~n", [Taken - Before, Calls]),
    ok = file:write_file(filename:join(Dir, "done.new"), Text),
    ok = file:rename(filename:join(Dir, "done.new"), filename:join(Dir, "done")),
    timer:sleep(infinity).

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
bottom(slow, Count, Bytes) -> {bottom, leak_normal(Count, Bytes)};
bottom(deep, Count, Bytes) -> {bottom, deep(Bytes, Count)};
bottom(burn_normal, Count, Ms) -> {bottom, burn_normal(Count, Ms)};
bottom(burn_dirty, Count, Ms) -> {bottom, burn_dirty(Count, Ms)};
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
