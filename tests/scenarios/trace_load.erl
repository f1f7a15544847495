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
         leak_realloc/2, leak_new/2, leak_thread/2, no_leak/2, truth/0]).
-export([outer/3, middle/3, bottom/3, churn/1]).

leak_normal(_, _) -> erlang:nif_error(not_loaded).
leak_dirty_cpu(_, _) -> erlang:nif_error(not_loaded).
leak_dirty_io(_, _) -> erlang:nif_error(not_loaded).
leak_mmap(_, _) -> erlang:nif_error(not_loaded).
leak_populate(_, _) -> erlang:nif_error(not_loaded).
leak_realloc(_, _) -> erlang:nif_error(not_loaded).
leak_new(_, _) -> erlang:nif_error(not_loaded).
leak_thread(_, _) -> erlang:nif_error(not_loaded).
no_leak(_, _) -> erlang:nif_error(not_loaded).
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
bottom(deep, Count, Bytes) -> {bottom, deep(Bytes, Count)};
bottom(churn, Count, _) -> [spawn(?MODULE, churn, [0]) || _ <- lists:seq(1, Count)], {bottom, ok}.

%% Body recursion of that depth, with the leak at its end.
deep(0, Count) -> leak_normal(Count, 10000);
deep(N, Count) -> case deep(N - 1, Count) of ok -> ok end.

%% Garbage without end: heaps grow and shrink, faults by the ten thousand.
churn(N) ->
    L = [{X, N} || X <- lists:seq(1, 20000 + erlang:phash2(N, 180000))],
    _ = length(lists:reverse(L)),
    churn(N + 1).
