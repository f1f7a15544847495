%% What the tests of `beamray list` compare with: what process_info/2, erlang:memory,
%% system_info and the like say inside the node, and processes that are hard to read.
%% Called through scenario's command `call`; values are terms for its JSON.
-module(process_truth).
-export([own/0, has_buffers/0, never/0, process_list/0, make/0, many/1, queue/1, feed/2, dictionary/1, sleeper/0, remote/2, delays/1, cost/0,
         inside/0, make_inside/0, make_atoms/2, spin/1, spin_stop/0,
         churn/1, churn_stop/0]).

-define(ITEMS, [registered_name, initial_call, current_function, memory, message_queue_len,
                reductions, heap_size, total_heap_size, stack_size, status, priority,
                trap_exit, group_leader, links, monitors, monitored_by, binary,
                garbage_collection, garbage_collection_info, message_queue_data]).

%% The process that asks: what it does changes what it would say.
own() -> list_to_binary(pid_to_list(self())).

%% Of every process but that one.
process_list() ->
    [one(P, I) || P <- processes(), P =/= self(), I <- [process_info(P, ?ITEMS)],
                  I =/= undefined].

one(P, Info) ->
    Get = fun(K) -> proplists:get_value(K, Info) end,
    Gc = Get(garbage_collection),
    GcInfo = Get(garbage_collection_info),
    Binaries = Get(binary),
    {obj, [{pid, list_to_binary(pid_to_list(P))},
           {registered_name, case Get(registered_name) of [] -> null; N -> N end},
           {initial_call, mfa(Get(initial_call))},
           {current_function, mfa(Get(current_function))},
           {group_leader, list_to_binary(pid_to_list(Get(group_leader)))},
           {links, length(Get(links))},
           {monitors, length(Get(monitors))},
           {monitored_by, length(Get(monitored_by))},
           {binaries, length(Binaries)},
           {binary_bytes, lists:sum([S || {_, S, _} <- Binaries])},
           {fullsweep_after, proplists:get_value(fullsweep_after, Gc)},
           {minor_gcs, proplists:get_value(minor_gcs, Gc)},
           {min_heap_size, proplists:get_value(min_heap_size, Gc)},
           {min_bin_vheap_size, proplists:get_value(min_bin_vheap_size, Gc)},
           {max_heap_size, maps:get(size, proplists:get_value(max_heap_size, Gc))},
           {max_heap_size_kill, maps:get(kill, proplists:get_value(max_heap_size, Gc))},
           {old_heap_size, proplists:get_value(old_heap_block_size, GcInfo)},
           {old_heap_used, proplists:get_value(old_heap_size, GcInfo)},
           {heap_used, proplists:get_value(heap_size, GcInfo)},
           {bin_vheap_size, proplists:get_value(bin_vheap_size, GcInfo)},
           {bin_vheap_block_size, proplists:get_value(bin_vheap_block_size, GcInfo)},
           {bin_old_vheap_size, proplists:get_value(bin_old_vheap_size, GcInfo)},
           {bin_old_vheap_block_size, proplists:get_value(bin_old_vheap_block_size, GcInfo)}
           | [{K, Get(K)} || K <- [memory, message_queue_len, reductions, heap_size,
                                   total_heap_size, stack_size, status, priority, trap_exit,
                                   message_queue_data]]]}.

mfa({M, F, A}) -> iolist_to_binary(io_lib:format("~tw:~tw/~w", [M, F, A]));
mfa(_) -> null.

%% ---- processes that are hard to read ---------------------------------------------

%% One of each kind; returns how many. They live until the node ends.
make() ->
    Held = [hold(F) || F <- kinds()],
    [receive {ready, P} -> ok after 20000 -> error({not_ready, P}) end || P <- Held],
    after_ready(list_to_tuple(Held)),
    length(Held).

hold({Options, Fun}) ->
    Self = self(),
    spawn_opt(fun() -> Fun(), Self ! {ready, self()}, wait() end, Options).

wait() -> receive nothing_of_this_kind -> ok end.

kinds() ->
    Plain = fun() -> ok end,
    Named = fun(Name) -> {[], fun() -> register(Name, self()) end} end,
    [{[], Plain},
     {[{message_queue_data, on_heap}], Plain},
     {[{message_queue_data, off_heap}], Plain},
     Named('t\x{fc}r \x{4f60}\x{597d} \e[31m'),
     Named(list_to_atom("line\nbreak\ttab\r\0end")),
     Named(list_to_atom(lists:duplicate(255, $x))),
     Named(list_to_atom(lists:duplicate(255, 16#20ac))),
     Named('"quoted" \\ \'name\''),
     {[{priority, high}, {fullsweep_after, 7}], fun() -> process_flag(trap_exit, true) end},
     {[{priority, low}, {min_heap_size, 5000}], Plain},
     {[{min_bin_vheap_size, 100000}], Plain},
     {[{max_heap_size, #{size => 10000000, kill => true, error_logger => false}}], Plain},
     {[], fun() -> [put(I, {I, I}) || I <- lists:seq(1, 1000)] end},
     {[], fun() -> put(held, lists:seq(1, 30000)), garbage_collect(), garbage_collect() end},
     {[], fun() -> process_flag(save_calls, 100) end},
     {[], fun() -> put(b, [binary:copy(<<I>>, 1000) || I <- lists:seq(1, 200)]) end},
     {[], fun() -> B = binary:copy(<<7>>, 100000), put(b, [binary:part(B, I, 200) || I <- lists:seq(1, 50)]) end},
     {[], fun() -> put(b, lists:foldl(fun(I, A) -> <<A/binary, I:64>> end, <<>>, lists:seq(1, 500))) end},
     {[], fun() -> put(f, [fun() -> {I, make_ref()} end || I <- lists:seq(1, 100)]) end},
     {[], fun() -> put(e, [ets:new(t, []), erlang:make_ref(), atomics:new(3, [])]) end},
     {[], fun() -> monitor(time_offset, clock_service) end}
     | [{[link, {message_queue_data, on_heap}], Plain} || _ <- lists:seq(1, 5)]].

%% Messages, links and monitors between them.
after_ready(Held) ->
    Messages = [x, {1, 2.5, "text"}, lists:seq(1, 200), binary:copy(<<1>>, 50),
                binary:copy(<<2>>, 5000), #{a => {self(), make_ref()}}, 1 bsl 200],
    [element(I, Held) ! M || I <- [1, 2, 3, 9, 12], M <- Messages, _ <- lists:seq(1, 20)],
    Watcher = spawn(fun() ->
        [monitor(process, element(I, Held)) || I <- lists:seq(1, tuple_size(Held)), _ <- [1, 2]],
        [link(element(I, Held)) || I <- lists:seq(1, 8)],
        monitor(process, scenario),
        [monitor(port, Port) || Port <- lists:sublist(erlang:ports(), 2)],
        erlang:put(ready, true),
        wait() end),
    register(process_truth_watcher, Watcher),
    %% a stack as deep as it was when the message did not come
    spawn(fun() -> deep(5000) end),
    %% many senders at once: parallel buffers of a receiver whose messages are off heap
    Many = element(3, Held),
    Senders = [spawn_monitor(fun() -> [Many ! {I, K, lists:seq(1, 5)} || K <- lists:seq(1, 500)] end)
               || I <- lists:seq(1, 16)],
    [receive {'DOWN', M, process, _, _} -> ok end || {_, M} <- Senders],
    %% the same to one that does not run: they stay in its buffers, which come with
    %% contention, or (25 on) when they are asked for
    Self = self(),
    Asleep = spawn_opt(fun() -> Self ! {buffers, buffers()}, wait() end,
                       [{message_queue_data, off_heap}]),
    receive {buffers, Buffers} -> put(buffers, Buffers) end,
    timer:sleep(20),
    true = erlang:suspend_process(Asleep),
    More = [spawn_monitor(fun() -> [Asleep ! {I, K} || K <- lists:seq(1, 3000)] end)
            || I <- lists:seq(1, 16)],
    [receive {'DOWN', M1, process, _, _} -> ok end || {_, M1} <- More],
    %% signals that are no messages, and wait: to one that does not run
    Suspended = spawn(fun wait/0),
    true = erlang:suspend_process(Suspended),
    [begin Suspended ! {message, I}, M = monitor(process, Suspended), demonitor(M) end
     || I <- lists:seq(1, 50)],
    hibernate(),
    settle(Watcher).

buffers() ->
    ok = logger:set_primary_config(level, none), % it warns, on our answers' stdout
    try
        erts_debug:set_internal_state(available_internal_state, true),
        erts_debug:set_internal_state(proc_sig_buffers, true) =:= true
    catch _:_ -> false
    end.

%% Did the process with many messages in buffers get them?
has_buffers() -> get(buffers).

settle(Watcher) ->
    case process_info(Watcher, dictionary) of
        {dictionary, [{ready, true}]} -> timer:sleep(50);
        _ -> timer:sleep(10), settle(Watcher)
    end.

hibernate() -> spawn(fun() -> put(a, lists:seq(1, 100)), erlang:hibernate(?MODULE, never, []) end).

never() -> wait().

deep(0) -> wait();
deep(N) -> [N | deep(N - 1)].

%% ---- large ones ------------------------------------------------------------------

many(N) ->
    [spawn(fun wait/0) || _ <- lists:seq(1, list_to_integer(N))],
    erlang:system_info(process_count).

queue(N) ->
    P = spawn_opt(fun wait/0, [{message_queue_data, off_heap}]),
    fill(P, list_to_integer(N)),
    {message_queue_len, Len} = process_info(P, message_queue_len),
    {obj, [{pid, list_to_binary(pid_to_list(P))}, {message_queue_len, Len}]}.

fill(_, 0) -> ok;
fill(P, N) -> P ! {N, a}, fill(P, N - 1).

%% A message to that process every millisecond or so, for so many ms; how many.
feed(Pid, Ms) -> feed(list_to_pid(Pid), erlang:monotonic_time(millisecond) + list_to_integer(Ms), 0).

feed(P, End, N) ->
    case erlang:monotonic_time(millisecond) < End of
        true -> P ! {N, a}, timer:sleep(1), feed(P, End, N + 1);
        false -> N
    end.

%% A process that does not run, for messages of other nodes; and such messages.
sleeper() ->
    P = spawn(fun wait/0),
    register(process_truth_sleeper, P),
    timer:sleep(20),
    true = erlang:suspend_process(P),
    list_to_binary(pid_to_list(P)).

remote(Node, N) ->
    true = net_kernel:connect_node(list_to_atom(Node)),
    [{process_truth_sleeper, list_to_atom(Node)} ! {I, lists:seq(1, 50), <<I:800>>, self()}
     || I <- lists:seq(1, list_to_integer(N))],
    true.

dictionary(N) ->
    Self = self(),
    P = spawn(fun() -> [put({key, I}, I) || I <- lists:seq(1, list_to_integer(N))], Self ! done, wait() end),
    receive done -> ok end,
    {memory, Memory} = process_info(P, memory),
    {obj, [{pid, list_to_binary(pid_to_list(P))}, {memory, Memory}]}.

%% ---- processes that come and go ----------------------------------------------------

churn(N) ->
    Workers = [spawn(fun worker/0) || _ <- lists:seq(1, list_to_integer(N))],
    put(list_churn, Workers),
    true.

worker() ->
    P = spawn(fun() ->
        put(x, [binary:copy(<<1>>, 200) || _ <- lists:seq(1, rand:uniform(50))]),
        [self() ! {I, "message"} || I <- lists:seq(1, rand:uniform(100))],
        M = monitor(process, list_to_pid("<0.0.0>")),
        receive {'DOWN', M, _, _, _} -> ok after rand:uniform(20) -> ok end
    end),
    [P ! {more, I} || I <- lists:seq(1, 20)],
    receive after 1 -> worker() end.

churn_stop() ->
    [exit(W, kill) || W <- get(list_churn)],
    true.

%% ---- what looking costs the node -------------------------------------------------

%% The delays of a 1 ms timer over so many ms, in us: worst, 99.9% and median.
delays(Ms) ->
    Self = self(),
    spawn_opt(fun() -> Self ! {delays, ticks(erlang:monotonic_time(microsecond) + 1000 * list_to_integer(Ms), [])} end,
              [{priority, high}, {min_heap_size, 1000000}]),
    receive {delays, D} -> ok end,
    Sorted = lists:sort(D),
    N = length(Sorted),
    {obj, [{worst_us, lists:last(Sorted)}, {p999_us, lists:nth(max(1, N * 999 div 1000), Sorted)},
           {median_us, lists:nth(max(1, N div 2), Sorted)}, {ticks, N}]}.

ticks(End, Acc) ->
    T0 = erlang:monotonic_time(microsecond),
    receive after 1 -> ok end,
    T1 = erlang:monotonic_time(microsecond),
    case T1 < End of
        true -> ticks(End, [T1 - T0 - 1000 | Acc]);
        false -> [T1 - T0 - 1000 | Acc]
    end.

%% What asking every process from inside costs: wall and scheduler time in us.
cost() ->
    Items = [registered_name, initial_call, current_function, memory, message_queue_len,
             reductions, heap_size, stack_size, binary, links, monitors],
    {Us, N} = timer:tc(fun() -> length([process_info(P, Items) || P <- processes()]) end),
    {obj, [{us, Us}, {processes, N}]}.

%% ---- what else is inside ---------------------------------------------------------

inside() ->
    #{count := Count, memory := Memory} = persistent_term:info(),
    {Code, Old, Modules} = loaded(),
    {obj, [{atom_count, erlang:system_info(atom_count)},
           {atom_limit, erlang:system_info(atom_limit)},
           {persistent_terms, Count}, {persistent_memory, Memory},
           {code, Code}, {old_code, Old},
           {modules, [{obj, [{module, M}, {size, Size}, {old, O}]} || {M, Size, O} <- Modules]},
           {old_modules, [M || M <- erlang:loaded(), erlang:check_old_code(M)]}]}.

%% erlang:system_info(loaded): bytes of code with its literals, one line a module.
loaded() ->
    [<<"Current code: ", C/binary>>, <<"Old code: ", O/binary>> | Lines] =
        binary:split(erlang:system_info(loaded), <<"\n">>, [global, trim_all]),
    {binary_to_integer(C), binary_to_integer(O), [line(binary:split(L, <<" ">>, [global])) || L <- Lines]}.

line([M, Size]) -> {M, binary_to_integer(Size), 0};
line([M, Size, <<"(", Old/binary>>, <<"old)">>]) -> {M, binary_to_integer(Size), binary_to_integer(Old)}.

%% A module with old code kept, literals, persistent terms of all kinds.
make_inside() ->
    [{module, kept_twice} = code:load_binary(kept_twice, "kept_twice.beam", version(V)) || V <- [1, 2]],
    Big = lists:seq(1, 50000),
    persistent_term:put(plain_key, Big),
    persistent_term:put({process_truth, 1}, {Big, "text"}),
    persistent_term:put({"no atom", 2}, 1),
    persistent_term:put(17, []),
    persistent_term:put(<<"binary">>, binary:copy(<<1>>, 100000)),
    persistent_term:put('\e[31mred', x),
    persistent_term:erase(17),
    true.

version(V) ->
    {ok, kept_twice, Binary} = compile:forms(
        [{attribute, 1, module, kept_twice}, {attribute, 2, export, [{f, 0}]},
         {function, 3, f, 0, [{clause, 3, [], [], [erl_parse:abstract({V, lists:seq(1, 3000 * V)})]}]}]),
    Binary.

make_atoms(Prefix, N) ->
    Text = unicode:characters_to_list(list_to_binary(Prefix)),
    _ = [list_to_atom(Text ++ integer_to_list(I)) || I <- lists:seq(1, list_to_integer(N))],
    erlang:system_info(atom_count).

spin(N) ->
    Held = [spawn(fun() -> spinning(0) end) || _ <- lists:seq(1, list_to_integer(N))],
    put(spinning, Held),
    [list_to_binary(pid_to_list(P)) || P <- Held].

spinning(I) -> spinning(I + 1).

spin_stop() -> [exit(P, kill) || P <- get(spinning)], true.
