"""Words that say little by themselves, by language; what is left of a text without them is what it is about."""

ENGLISH = """
    a about after all also am an and any are as asked at based be been being both but by can could did do does doing
    for from further give given had has have having he her here hers him his how i if in into is it its itself just
    let me more most much many my no nor not now of off on once only or other our out over own please question
    response answer relying details shown per primarily same she should show so some such tell than that the their
    them then there these they this those through to too under until up upon use using very was we were what when
    where whether which while who whom whose why will with would you your according name explain describe find
"""
CHINESE = """
    的 了 在 是 和 与 吗 呢 什么 什 么 谁 哪 些 哪些 几 多少 多 少 如何 怎么 怎 为什么 为 何 被 有 个 请 问 于 以
    对 中 之 这 那 其 及 或 都 也 就 它 他 她
"""
