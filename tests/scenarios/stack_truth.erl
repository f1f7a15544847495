%% Processes that wait in known ways, and what process_info/2 says of where all are:
%% what `beamray list stacks` is compared with.
-module(stack_truth).
-behaviour(gen_server).
-export([make/1, stacks/0, stack_of/1, many/2, churn/1, churn_stop/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).
-export([chain/1, deep/1, even/1, odd/1, mapped/1, guarded/1, asleep/1, hibernating/1, woken/0,
         opening/1, calling/1, port/1, spinning/1, timed/1, terms/1, folded/1]).

%% One of each; Dir is where a fifo may be made. Returns their pids by kind.
make(Dir) ->
    erlang:system_flag(backtrace_depth, 1000),
    Fifo = filename:join(text(Dir), "fifo." ++ os:getpid()),
    os:cmd("mkfifo " ++ Fifo),
    {ok, Server} = gen_server:start({local, stack_server}, ?MODULE, [], []),
    Kinds = [{chain, 0}, {deep, 10000}, {even, 3001}, {mapped, 40}, {guarded, 0}, {asleep, 0},
             {hibernating, 0}, {opening, Fifo}, {calling, Server}, {port, 0}, {timed, 0},
             {terms, 300}, {folded, 30}],
    Pids = [{K, spawn(?MODULE, K, [Argument])} || {K, Argument} <- Kinds],
    register(list_to_atom([$s, 16#1b, $[, 16#7d0]), proplists:get_value(chain, Pids)),
    Spinner = spawn(?MODULE, spinning, [0]),
    timer:sleep(300),
    erlang:suspend_process(Spinner),
    Old = old_code(),
    timer:sleep(300),
    {obj, [{K, pid(P)} || {K, P} <- [{suspended, Spinner}, {old, Old}, {server, Server} | Pids]]}.

text(A) when is_atom(A) -> atom_to_list(A);
text(L) -> L.

pid(P) -> list_to_binary(pid_to_list(P)).

stop() -> receive never -> ok end.

chain(_) -> R = chain2(1), {chain, R}.
chain2(X) -> R = chain3({X}), [R].
chain3(X) -> R = stop(), {R, X}.

deep(0) -> stop();
deep(N) -> [deep(N - 1)].

even(0) -> stop();
even(N) -> {even, odd(N - 1)}.
odd(0) -> stop();
odd(N) -> {odd, even(N - 1)}.

mapped(N) -> {mapped, lists:map(fun(X) when X < N -> X; (_) -> stop(), 0 end, lists:seq(1, N))}.

folded(N) -> {folded, lists:foldl(fun(X, A) when X < N -> [X | A]; (_, A) -> [stop() | A] end, [],
                                  lists:seq(1, N))}.

guarded(_) ->
    R = try chain2(1) of X -> {X} catch _:_ -> none after put(done, true) end,
    Caught = (catch chain3(R)),
    {R, Caught}.

asleep(_) -> ok = timer:sleep(infinity), asleep.
hibernating(_) -> erlang:hibernate(?MODULE, woken, []).
woken() -> woken.

%% On a dirty scheduler: nobody opens the other end.
opening(Fifo) -> R = file:open(Fifo, [read, raw]), {opened, R}.
calling(Server) -> R = gen_server:call(Server, hang, infinity), {called, R}.
port(_) ->
    Port = open_port({spawn, "cat"}, [binary]),
    R = receive {Port, {data, _}} -> data end,
    {R, Port}.
timed(_) -> R = receive never -> 1 after 3600000 -> 2 end, {timed, R}.
spinning(N) -> X = lists:sum(lists:seq(1, 20)), {spinning(N + X)}.

%% Terms of every kind lie on the stack beside return addresses.
terms(0) -> stop();
terms(N) ->
    A = N bsl 60, B = N * 1.5, C = list_to_binary(integer_to_list(N)), D = self(), E = make_ref(),
    F = fun() -> N end, G = #{N => N}, H = [A | B],
    R = terms(N - 1),
    {A, B, C, D, E, F, G, H, R}.

init([]) -> {ok, state}.
handle_call(hang, _, State) -> {reply, {State, stop()}, State}.
handle_cast(_, State) -> {noreply, State}.
handle_info(_, State) -> {noreply, State}.

%% A process in code that has been replaced since.
old_code() ->
    load_hot(1),
    Pid = spawn(fun() -> {hot, stack_hot:outer(1)} end),
    timer:sleep(100),
    load_hot(2),
    Pid.

load_hot(Version) ->
    Lines = ["-module(stack_hot).", "-export([outer/1, version/0]).",
             "version() -> " ++ integer_to_list(Version) ++ ".",
             "outer(X) -> {outer, inner(X)}.", "inner(X) -> receive never -> X end."],
    Forms = [begin {ok, T, _} = erl_scan:string(L, N), {ok, F} = erl_parse:parse_form(T), F end
             || {N, L} <- lists:zip(lists:seq(1, length(Lines)), Lines)],
    {ok, stack_hot, Code} = compile:forms(Forms, []),
    {module, stack_hot} = code:load_binary(stack_hot, "stack_hot.erl", Code).

%% Of all but the one that asks: the frames as process_info has them, innermost first.
stacks() -> [one(P, S) || P <- processes(), P =/= self(),
                          {current_stacktrace, S} <- [process_info(P, current_stacktrace)]].

stack_of(Pid) ->
    P = list_to_pid(Pid),
    {current_stacktrace, S} = process_info(P, current_stacktrace),
    one(P, S).

one(P, S) ->
    {obj, [{pid, pid(P)},
           {frames, [[iolist_to_binary(io_lib:format("~tw:~tw/~w", [M, F, A])),
                      proplists:get_value(line, Where, null)] || {M, F, A, Where} <- S]}]}.

%% So many processes that wait in one of three places.
many(N, Depth) ->
    Count = list_to_integer(N), Deep = list_to_integer(Depth),
    [spawn(fun() -> case I rem 3 of 0 -> chain(0); 1 -> deep(Deep); 2 -> asleep(0) end end)
     || I <- lists:seq(1, Count)],
    timer:sleep(500),
    Count.

%% Processes that come, go up and down, and end.
churn(N) ->
    register(stack_churn, spawn(fun() -> churn_loop(list_to_integer(N)) end)),
    ok.
churn_loop(N) ->
    Pids = [spawn(fun() -> wander(20 + I rem 50) end) || I <- lists:seq(1, N)],
    receive stop -> [exit(P, kill) || P <- Pids] after 20 -> churn_loop(N) end.
wander(0) -> ok;
wander(N) -> timer:sleep(N rem 3), _ = [wander_deep(N)], wander(N - 1).
wander_deep(0) -> erlang:yield();
wander_deep(N) -> [wander_deep(N - 1)].
churn_stop() -> stack_churn ! stop, ok.
