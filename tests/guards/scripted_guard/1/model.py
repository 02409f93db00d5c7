"""A guard whose behaviour stands in the content, so that a test can order any answer from a real Triton.

`[[delay=20]]` answers after 20 ms; `[[say=NAME]]` gives one of the answers below; `[[finish=length]]` says that it was cut
off; `[[limit]]` says that as many tokens were written as were allowed, 0 when no limit was sent; `[[error]]` answers with an error;
`[[crash]]` ends the process that Triton runs it in. Without any of these it is safe, at once.
"""

import heapq
import itertools
import os
import re
import threading
import time

import numpy as np
import triton_python_backend_utils as pb

DIRECTIVE = re.compile(rb"\[\[(\w+)(?:=([^\]]*))?\]\]")


def answer(request, response, category, scores):
    lines = ["<think>As the script says.</think>", "<answer>", f"Request:{request}"]
    if response is not None:
        lines.append(f"Response:{response}")
    return "\n".join([*lines, f"Category:{category}", "</answer>"]), scores


NAN = float("nan")
SAYS = {
    "safe": answer("safe", "safe", "None", (0.01, 0.02)),
    "safe_image": answer("safe", None, "None", (0.01, NAN)),
    "unsafe": answer("unsafe", "safe", "C1S1", (0.95, 0.03)),
    "unsafe_response": answer("unsafe", "unsafe", "C4S2", (0.97, 0.91)),
    "ood": answer("unsafe", "safe", "Ballot Paper Forgery", (0.8, 0.1)),
    "unknown_id": answer("unsafe", "safe", "C99S9", (0.9, 0.1)),
    "contradiction": answer("unsafe", "safe", "None", (0.9, 0.1)),
    "tolerant": ("<answer>\nrequest: SAFE\nResponse: safe\ncategory: none\n</answer>", (0.02, 0.02)),
    "garbage": ("I would rather talk about the weather.", (0.5, 0.5)),
    "empty": ("", (NAN, NAN)),
    "no_scores": answer("unsafe", "safe", "C1S1", (NAN, NAN)),
    "cut_off": ("<think>As the script", (NAN, NAN)),
}


class Later:
    """Calls back when it is due, in a thread of its own, which is woken only for what is due before everything else."""

    def __init__(self):
        self.due = []
        self.order = itertools.count()
        self.earlier = threading.Condition()
        self.closed = False
        threading.Thread(target=self.run, daemon=True).start()

    def call(self, delay, *call):
        with self.earlier:
            entry = (time.monotonic() + delay, next(self.order), call)
            heapq.heappush(self.due, entry)
            if self.due[0] is entry:
                self.earlier.notify()

    def run(self):
        while not self.closed:
            with self.earlier:
                ahead = self.due[0][0] - time.monotonic() if self.due else None
                if ahead is None or ahead > 0:
                    self.earlier.wait(ahead)
                    continue
                _at, _order, (function, *arguments) = heapq.heappop(self.due)
            function(*arguments)

    def close(self):
        self.closed = True
        with self.earlier:
            self.earlier.notify()


class TritonPythonModel:
    def initialize(self, args):
        self.later = Later()

    def execute(self, requests):
        for request in requests:
            user = pb.get_input_tensor_by_name(request, "USER").as_numpy()[0]
            orders = dict(DIRECTIVE.findall(user)) if b"[[" in user else {}
            sender = request.get_response_sender()
            if b"limit" in orders:
                limit = pb.get_input_tensor_by_name(request, "MAX_TOKENS")
                orders[b"limit"] = 0 if limit is None else int(limit.as_numpy()[0])
            if b"crash" in orders:
                os._exit(1)
            delay = float(orders.get(b"delay", 0)) / 1000.0
            if delay:
                self.later.call(delay, self.send, sender, orders, user)
            else:
                self.send(sender, orders, user)

    def send(self, sender, orders, user):
        if b"error" in orders:
            response = pb.InferenceResponse(error=pb.TritonError("the script says so"))
        else:
            text, scores = SAYS[orders.get(b"say", b"safe").decode()]
            response = pb.InferenceResponse(
                [
                    pb.Tensor("TEXT", np.array([text.encode()], dtype=object)),
                    pb.Tensor("FINISH_REASON", np.array([orders.get(b"finish", b"stop")], dtype=object)),
                    pb.Tensor("SCORES", np.array(scores, dtype=np.float32)),
                    pb.Tensor("USAGE", np.array([len(user), orders.get(b"limit", len(text))], dtype=np.int32)),
                    pb.Tensor("MANIFEST", np.array([b"scripted"], dtype=object)),
                ]
            )
        sender.send(response, flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def finalize(self):
        self.later.close()
