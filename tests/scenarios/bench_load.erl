%% Loads whose operations are counted: what an operation costs with a tool attached and
%% without is what tests/bench/overhead.py compares.
-module(bench_load).
-export([start/1, stop/0, count/0]).

start(Kind) ->
    stop(),
    Counter = counters:new(1, []),
    persistent_term:put(bench_counter, Counter),
    Pid = spawn(fun() -> load(Kind, Counter) end),
    register(bench_load, Pid),
    true.

stop() ->
    case whereis(bench_load) of
        undefined -> true;
        Pid ->
            Ref = monitor(process, Pid),
            exit(Pid, kill),
            receive {'DOWN', Ref, process, Pid, _} -> true end
    end.

count() -> counters:get(persistent_term:get(bench_counter), 1).

%% Lists that die at once: minor collections, and major ones of what is kept.
load(gc, C) -> loop(C, fun(Kept) ->
    L = [{I, I} || I <- lists:seq(1, 200)],
    lists:sublist([L | Kept], 20)
end, []);
%% Binaries off the heap, some kept.
load(binaries, C) -> loop(C, fun(Kept) ->
    lists:sublist([binary:copy(<<"0123456789abcdef">>, 32) | Kept], 50)
end, []);
%% Messages there and back.
load(messages, C) ->
    Self = self(),
    Echo = spawn_link(fun() -> echo(Self) end),
    loop(C, fun(_) -> Echo ! {ping, 1}, receive pong -> ok end end, ok);
%% Rows come and go.
load(ets, C) ->
    T = ets:new(bench, [public]),
    loop(C, fun(N) ->
        true = ets:insert(T, {N rem 10000, {N, <<"a row of the table">>}}),
        _ = ets:lookup(T, (N * 7) rem 10000),
        N + 1
    end, 1);
%% Fresh pages all the time: a mapping for each, given back at once.
load(faults, C) -> loop(C, fun(_) -> _ = binary:copy(<<"0123456789abcdef">>, 65536), ok end, ok);
%% terms to binaries and their hashes
load(crypto, C) ->
    {ok, _} = application:ensure_all_started(crypto),
    Term = [{I, lists:seq(1, I)} || I <- lists:seq(1, 20)],
    loop(C, fun(_) -> crypto:hash(sha256, term_to_binary(Term)) end, ok).

echo(To) ->
    receive {ping, _} -> To ! pong end,
    echo(To).

loop(C, F, State) ->
    Next = times(100, F, State),
    counters:add(C, 1, 100),
    loop(C, F, Next).

times(0, _, State) -> State;
times(N, F, State) -> times(N - 1, F, F(State)).
