%% A module that is loaded anew again and again while it is being traced.
-module(trace_hot).
-export([run/1]).

run(Count) -> {run, again(Count)}.

again(Count) -> {again, turn(Count, 0)}.

turn(0, X) -> X;
turn(N, X) -> turn(N - 1, (X * 31 + N) band 16#ffffff).
