"""What a conversation does with what it holds: it renews it, and calls APIs with it.

* ``renewals``: one refresh where one is called for; ``renewal_rules`` decides.
* ``calls``: the credential-injecting proxy; ``paths`` and ``headers`` say what passes.
* ``limits``: how often.
"""
