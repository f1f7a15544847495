%% Processes that collect garbage in known ways, and what the VM's own tracer says
%% about them.
%%
%%   prepare(Rounds)  starts them, idle, with erlang:trace(garbage_collection) on
%%   run()            lets them work, and answers when all are done:
%%                    [{kind, pid, minor_start, minor_end, major_start, major_end,
%%                      reclaimed (words), long_gc, large_heap, alive}]
%%   many(File, N)    waits for the file, then N processes, each collected once
%%   churn_start(N)   N processes that collect without end
%%
%% system_monitor's thresholds are those that the tests give to beamray.
-module(gc_load).
-export([prepare/1, run/0, many/2, churn_start/1]).
-export([worker/2, woken/2]).

-define(LONG_MS, 5).
-define(LARGE_WORDS, 1000000).

prepare(Rounds) ->
    N = list_to_integer(Rounds),
    Self = self(),
    Tracer = spawn(fun() -> erlang:process_flag(message_queue_data, off_heap),
                            tracer(#{}) end),
    Monitor = spawn(fun() -> monitor(#{}) end),
    erlang:system_monitor(Monitor, [{long_gc, ?LONG_MS}, {large_heap, ?LARGE_WORDS}]),
    Kinds = [minor, major, grow, dirty, dirty2, off_heap, on_heap, dies, hibernate, killed, fields],
    Workers = [begin
                   Pid = spawn(?MODULE, worker, [Kind, N]),
                   catch register(list_to_atom("gc_" ++ atom_to_list(Kind)), Pid),
                   erlang:trace(Pid, true, [garbage_collection, {tracer, Tracer}]),
                   {Kind, Pid}
               end || Kind <- Kinds],
    put(gc_load, {Self, Tracer, Monitor, Workers}),
    length(Workers).

run() ->
    {_, Tracer, Monitor, Workers} = get(gc_load),
    Refs = [{erlang:monitor(process, Pid), Pid} || {_, Pid} <- Workers],
    [Pid ! {go, self()} || {_, Pid} <- Workers],
    [receive {done, Pid} -> ok; {'DOWN', Ref, _, Pid, _} -> ok end || {Ref, Pid} <- Refs],
    [begin
         R = erlang:trace_delivered(Pid),
         receive {trace_delivered, _, R} -> ok end
     end || {_, Pid} <- Workers],
    Counts = ask(Tracer),
    erlang:system_monitor(undefined),
    Seen = ask(Monitor),
    [erlang:demonitor(Ref, [flush]) || {Ref, _} <- Refs],
    [row(Kind, Pid, maps:get(Pid, Counts, #{}), Seen) || {Kind, Pid} <- Workers].

ask(Pid) ->
    Pid ! {tell, self()},
    receive {told, Pid, What} -> What end.

row(Kind, Pid, C, Seen) ->
    {obj, [{kind, atom_to_binary(Kind, utf8)}, {pid, list_to_binary(pid_to_list(Pid))},
           {alive, is_process_alive(Pid)},
           {long_gc, maps:get({Pid, long_gc}, Seen, 0)},
           {large_heap, maps:get({Pid, large_heap}, Seen, 0)}
           | [{Tag, maps:get(Tag, C, 0)} || Tag <- [gc_minor_start, gc_minor_end, gc_major_start,
                                                    gc_major_end, reclaimed]]]}.

tracer(Counts) ->
    receive
        {trace, Pid, Tag, Info} ->
            C = maps:get(Pid, Counts, #{}),
            C1 = C#{Tag => maps:get(Tag, C, 0) + 1},
            Words = proplists:get_value(wordsize, Info, 0), %% gc_max_heap_size has none
            C2 = case Tag =:= gc_minor_end orelse Tag =:= gc_major_end of
                     true -> C1#{reclaimed => maps:get(reclaimed, C, 0) + Words};
                     false -> C1
                 end,
            tracer(Counts#{Pid => C2});
        {tell, From} ->
            From ! {told, self(), Counts},
            tracer(Counts)
    end.

monitor(Seen) ->
    receive
        {monitor, Pid, What, _} ->
            Key = {Pid, What},
            monitor(Seen#{Key => maps:get(Key, Seen, 0) + 1});
        {tell, From} ->
            From ! {told, self(), Seen},
            monitor(Seen)
    end.

worker(Kind, N) ->
    prepared(Kind),
    receive {go, From} -> ok end,
    Kind =:= hibernate andalso woken(N div 10, From),
    work(Kind, N),
    From ! {done, self()},
    Kind =:= dies orelse receive stop -> ok end.

prepared(off_heap) -> process_flag(message_queue_data, off_heap);
prepared(killed) -> process_flag(max_heap_size, #{size => 200000, kill => true,
                                                  error_logger => false});
prepared(_) -> ok.

work(minor, N) -> garbage(N * 20);
work(major, N) -> [begin garbage(1), erlang:garbage_collect() end || _ <- lists:seq(1, N)];
work(grow, N) -> [length(grow(I * 3000, [])) || I <- lists:seq(1, N div 4)];
work(dirty, N) -> large(N div 8);
work(dirty2, N) -> large(N div 8);
work(off_heap, N) -> messages(N);
work(on_heap, N) ->
    %% a heap so large that dirty schedulers collect it, and messages in fragments
    Keep = lists:seq(1, 400000),
    messages(N div 2),
    length(Keep);
work(fields, N) -> fields(N * 20, [<<"a">>, <<"bcd">>, <<"efgh">>]);
work(dies, N) -> garbage(N);
work(killed, _) -> grow(1000000, []).

%% The sweep of a process that hibernates is none of those that are traced.
woken(0, From) ->
    From ! {done, self()},
    receive stop -> ok end;
woken(N, From) ->
    receive wake -> ok after 0 -> ok end,
    garbage(2),
    Self = self(),
    spawn(fun() -> timer:sleep(2), Self ! wake end),
    erlang:hibernate(?MODULE, woken, [N - 1, From]).

garbage(0) -> ok;
garbage(N) -> _ = length(lists:seq(1, 2000)), garbage(N - 1).

grow(0, L) -> L;
grow(N, L) -> grow(N - 1, [N | L]).

large(N) ->
    Keep = lists:seq(1, 1500000),
    [begin _ = length(lists:seq(1, 200000)), erlang:garbage_collect() end
     || _ <- lists:seq(1, N)],
    length(Keep).

%% Binaries made field by field: on some releases their room is asked for, and heap
%% collected, in the middle of many calls of the runtime.
fields(0, _) -> ok;
fields(N, [A, B, C] = All) ->
    X = <<(byte_size(A)):8, A/binary, (byte_size(B)):16, B/binary, N:32, (byte_size(C)):8,
          C/binary, (N band 1):1, 0:7>>,
    true = byte_size(X) > 10,
    fields(N - 1, All).

%% Messages of other processes' making, read late.
messages(N) ->
    Self = self(),
    [begin
         spawn(fun() -> [Self ! {data, I, lists:seq(1, 200)} || I <- lists:seq(1, 100)],
                        Self ! sent end),
         receive sent -> ok end,
         garbage(3),
         _ = K rem 3 =:= 0 andalso erlang:garbage_collect(),
         drain(0)
     end || K <- lists:seq(1, N div 4)].

drain(N) -> receive {data, _, _} -> drain(N + 1) after 0 -> N end.

%% More processes than anybody keeps room for, each collected once: how many collections
%% the VM counted meanwhile, and how many words they gave back.
many(File, Number) ->
    N = list_to_integer(Number),
    wait(File),
    {C0, W0, _} = erlang:statistics(garbage_collection),
    many(N),
    {C1, W1, _} = erlang:statistics(garbage_collection),
    [C1 - C0, W1 - W0].

many(0) -> ok;
many(N) ->
    Batch = min(N, 1000),
    [receive {'DOWN', R, _, _, _} -> ok end
     || {_, R} <- [spawn_monitor(fun() -> erlang:garbage_collect() end)
                   || _ <- lists:seq(1, Batch)]],
    many(N - Batch).

wait(File) ->
    case file:read_file_info(File) of
        {ok, _} -> ok;
        _ -> timer:sleep(20), wait(File)
    end.

%% Collections without end.
churn_start(N) ->
    put(gc_churn, [spawn_link(fun Loop() -> garbage(1000), Loop() end)
                   || _ <- lists:seq(1, list_to_integer(N))]),
    true.
