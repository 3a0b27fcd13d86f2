"""What the people of the demo's world say: for every move of a dialogue, templates for two kinds of split.

A template holds slots in braces, filled from the facts of the scene, and choices in square brackets
(``[Hi|Hello] {B}``). ``TRAIN`` is what pretraining and training say, ``HELD_OUT`` what the validation and
test dialogues say; no sentence can be made from both (a test expands every choice and compares).
"""

from __future__ import annotations

# fmt: off
TRAIN: dict[str, tuple[str, ...]] = {
    # ---- an appointment: A asks, B answers
    "appointment.open": (
        "[Hi|Hello|Good morning] {B}, I'd like to {do} {what}.",
        "{B}, [can I|could I] {do} {what} [this week|soon|with you]?",
        "[Hello, I want|Hey {B}, I want|Hi, I hope] to {do} {what}.",
        "Is it possible to {do} {what}, {B}?",
        "[Good day|Hello], I am calling because I need to {do} {what}.",
    ),
    "appointment.propose": (
        "[Sure|Of course|Gladly]. [How about|What about] {day1} at {time1} {place1}?",
        "Let me see. {day1} at {time1} is free, {place1}.",
        "[Yes|Certainly], {place1}, on {day1}, at {time1}?",
        "[I can offer|We have] {day1}, {time1}, {place1}.",
        "[No problem|All right], come on {day1} at {time1}. It is {place1}.",
    ),
    "appointment.accept": (
        "[Perfect|Great|Good], {day1} at {time1} [works|suits me|is fine].",
        "[Yes|OK|Fine], I will be there.",
        "That [works|sounds good|suits me], thank you.",
    ),
    "appointment.day_no": (
        "{day1} is [bad|difficult|impossible], {reason_i}. [Can we|Could we] do {day2}?",
        "Not {day1}, [please|sorry], {reason_i}. [Maybe|Perhaps] {day2}?",
        "[Oh no|Hmm], {reason_i} on {day1}. Is {day2} possible?",
        "[Sorry|I'm afraid] {reason_i} that day. What about {day2}?",
    ),
    "appointment.day_yes": (
        "[Fine|OK|Sure], {day2} [then|it is].",
        "{day2} [works|is fine] too, same time.",
        "[Yes|Good], I have moved it to {day2}.",
    ),
    "appointment.day_back": (
        "[Wait|Oh], {day2} is [full|not free]. [Only|Just] {day1} is left.",
        "[Sorry|Hmm], I was wrong, {day2} is [taken|full], so it must be {day1}.",
    ),
    "appointment.day_back_yes": (
        "[Then|OK,] {day1} after all, I will manage.",
        "[All right|Fine], let's keep {day1}.",
    ),
    "appointment.time_no": (
        "[Wait|One moment], {time1} is [taken|gone]. Is {time2} [OK|fine|possible]?",
        "[Actually|Sorry], I can only do {time2}, not {time1}.",
        "[Hmm|Oh], {time1} is too [early|late|busy]. {time2} would be better.",
    ),
    "appointment.time_yes": (
        "[OK|Fine|Sure], {time2} [then|it is].",
        "{time2} is [good|even better|no problem].",
        "[Yes|Right], let's say {time2}.",
    ),
    "appointment.place_no": (
        "[Actually|Oh], they are closed then. [Let's meet|We meet] {place2}, not {place1}.",
        "[Wait|Sorry], not {place1}, it will be {place2}.",
        "[By the way|Hmm], it is too [noisy|crowded|cold] {place1}. Shall we say {place2}?",
    ),
    "appointment.place_yes": (
        "[OK|Fine], {place2} [then|is good].",
        "[Good to know|No problem], I'll come there.",
        "It is [closer|nicer] {place2} anyway.",
    ),
    # ---- an offer on the side, in any plot: B offers, A answers
    "extra.offer": (
        "[Do you want|Would you like] {extra} [as well|too|with it]?",
        "[And|Shall I add] {extra}, [perhaps|too]?",
        "We [also have|could add] {extra}. [Interested?|Is that something for you?]",
        "[Some people|Many] take {extra}. [You too?|And you?]",
    ),
    "extra.no": (
        "No, [thanks|thank you], [not this time|that is too much].",
        "[I'd rather not|Better not], I don't need that.",
        "[Oh no|No], {extra} is not [for me|necessary].",
        "[No thanks|Not today], without it, please.",
    ),
    "extra.yes": (
        "[Yes|Oh yes], [please|with pleasure]!",
        "[Why not|Good idea], I'll take that.",
        "[Gladly|Sure], {extra} [sounds|would be] great.",
    ),
    # ---- errands, in any plot
    "todo.ask": (
        "[Please|Could you please] {todo}.",
        "[Can you|Will you|Could you] {todo}?",
        "[One more thing|And] {Y}, [don't forget to|remember to] {todo}.",
        "It would [help|be nice] if you could {todo}.",
    ),
    "todo.ok": (
        "[Sure|OK|Yes], [I will|I'll do that].",
        "[No problem|Consider it done|Of course].",
        "[Right|Fine], I'll {todo}.",
    ),
    "todo.promise": (
        "[I'll|I will|Then I will] {todo} [tomorrow|tonight|today].",
        "[Good|OK], and I'll {todo}.",
        "[Let me|I am going to] {todo}.",
    ),
    "close": (
        "[See you|Goodbye|Bye]!", "[Thanks|Thank you], {Y}!", "[Great|Perfect], [see you then|talk to you soon].",
        "[Have a nice day|Take care]!",
    ),
    # ---- an order: A orders, B sells
    "order.open": (
        "[Hello|Good evening], this is {A}. I'd like to order {item1}.",
        "[Hi|Hello] {B}, [can I have|I need|I want] {item1}, please.",
        "[Could you|Can you] deliver {item1}, {B}?",
        "I'm [calling|writing] to order {item1}.",
    ),
    "order.where": (
        "[Sure|Certainly]. [Where to?|Where shall we bring it?]",
        "[Gladly|Of course], {A}. What is the address?",
        "[OK|Fine], and where do you live?",
    ),
    "order.address": (
        "[To|It is] {addr}, please.", "[I live at|Bring it to|My address is] {addr}.", "{addr}, [at the back|first floor].",
    ),
    "order.switch": (
        "[Oh|Wait|Hmm], [make that|I'd rather have] {item2} instead of {item1}.",
        "[Actually|Sorry], not {item1}. I'll take {item2}.",
        "[One moment|Wait], my [friends|guests] prefer {item2}, so please [change it|change that].",
    ),
    "order.switch_ok": (
        "[No problem|OK|Sure], {item2}.", "[Noted|Changed], {item2} it is.", "[Fine|Right], I have changed the order.",
    ),
    "order.out": (
        "[Sorry|I'm afraid], {item1} [is not possible|is sold out] today. Would {item2} do?",
        "[Oh|Hmm], we have no more of that. [How about|Maybe] {item2}?",
    ),
    "order.out_yes": (
        "[OK|Fine|Sure], {item2} [then|is good too].", "[Yes|All right], that will do.",
    ),
    "order.out_no": (
        "No, then I'd rather not order [anything|at all].", "[Oh no|That's a pity], [cancel it|forget the order], please.",
    ),
    "order.when": (
        "It will [be there|arrive] [by|before] {time}.", "[The driver|Our driver] comes at {time}.", "You get it at {time}.",
    ),
    "order.pay": (
        "[I'll pay|I pay] {pay}.", "[Can I pay|Is it OK to pay] {pay}?", "I'd like to pay {pay}.",
    ),
    # ---- something borrowed: A asks B
    "borrow.open": (
        "{B}, [can I|could I|may I] borrow {item}? I want {purpose}.",
        "[Hi|Hey] {B}, I need {item} {purpose}. Do you have one?",
        "[Would you|Could you] lend me {item}, {B}? I'd like {purpose}.",
        "I am trying {purpose}, {B}, [but|and] I don't have {item}.",
    ),
    "borrow.lend": (
        "[Sure|Of course], [but|only] I need it back [by|on] {day1}.",
        "[Yes|OK], take it, and bring it back on {day1}.",
        "You can have it until {day1}.",
    ),
    "borrow.sooner": (
        "[Oh wait|Sorry], {reason_i}. I need it on {day2}, not {day1}.",
        "[Hmm|Actually], better {day2}, because {reason_i}.",
    ),
    "borrow.longer": (
        "[Could I|Can I] keep it until {day2}? {Reason_i}.", "{day1} is too early for me, {reason_i}. [Is|Would] {day2} [be|] OK?",
    ),
    "borrow.day_ok": (
        "[OK|Fine|Sure], {day2}.", "[Yes|Good], until {day2} then.", "{day2} is fine [with me|for me].",
    ),
    "borrow.refuse": (
        "[Sorry|No], I [can't|cannot], {excuse}. [Ask|Try] {C}.",
        "I'm afraid not, {excuse}. [Maybe|Perhaps] {C} has one.",
        "[I'd love to|I would], but {excuse}. {C} might help.",
    ),
    "borrow.ask_c": (
        "[OK|Fine|Good idea], I'll [ask|call] {C}.", "[Thanks|Thank you], then I'll try {C}.",
    ),
    "borrow.instead": (
        "[Sorry|Hmm], {excuse}, but you can have {item2}.", "I can give you {item2} instead, because {excuse}.",
    ),
    "borrow.instead_yes": (
        "[That|It] will do, thanks.", "[Great|OK], I'll take {item2}.",
    ),
    "borrow.instead_no": (
        "No, {item2} [won't help|is no use]. I'll [wait|manage].", "[Thanks|Hmm], but I really need {item}. I'll buy one.",
    ),
    # ---- a delay: A is late for something with B
    "delay.open": (
        "{B}, I'll be [late|a bit late] for {event}, {cause_i}.",
        "[Hi|Sorry] {B}, {cause_i}. I won't be on time for {event}.",
        "[Bad news|Oh dear], {cause_i}, so I'll miss the start of {event}.",
    ),
    "delay.ask": (
        "[Oh no|I see]. How [long|late]?", "[That's a pity|Oh]. When will you be here?", "[OK|Hmm], how many minutes?",
    ),
    "delay.say": (
        "[About|Maybe|I think] {min1} minutes.", "I should be there in {min1} minutes.", "Give me {min1} minutes.",
    ),
    "delay.more": (
        "[Oh|Hmm], it is getting worse. More like {min2} minutes.", "[Sorry|No], make that {min2} minutes, not {min1}.",
        "[Wait|I just heard], it will be {min2} minutes.",
    ),
    "delay.wait": (
        "[No problem|Fine|Don't worry], I'll wait {place1}.", "Then I'll wait for you {place1}.", "[OK|Good], I am {place1} and have time.",
    ),
    "delay.start": (
        "[Then|OK,] we'll start without you.", "We can't wait, so we'll begin. [Come|Join us] {place1}.",
    ),
    "delay.move": (
        "[Then|OK,] let's move it to {day2} at {time2}.", "That is too late. [How about|Let's take] {day2} at {time2}?",
    ),
    "delay.ok": (
        "[Thanks|Thank you] for [understanding|your patience].", "[OK|Good], [sorry again|I'm sorry].", "[Agreed|That's kind], thanks.",
    ),
    # ---- an invitation: A invites B
    "invite.open": (
        "{B}, [do you want to|would you like to] come to {event} on {day1}?",
        "[Hi|Hey] {B}, I have [tickets for|a spare place at] {event} on {day1}. [Coming?|Will you come?]",
        "There is {event} on {day1}, {B}. [Join me|Come along]!",
    ),
    "invite.where": (
        "[Where|When] is it?", "[Nice|Oh], tell me more.", "[Sounds fun|Interesting]. When and where?",
    ),
    "invite.details": (
        "It [starts|begins] at {time1}, {place1}.", "[At|From] {time1}, {place1}.", "[We meet|Let's meet] {place1} at {time1}.",
    ),
    "invite.yes": (
        "[Great|Yes], I'd love to!", "[Count me in|I'll be there]!", "[Sure|Gladly], I'll come.",
    ),
    "invite.no": (
        "[Sorry|I'm afraid] I can't, {reason_i}.", "I'd love to, but {reason_i}.", "[Not this time|No], {reason_i}.",
    ),
    "invite.no_late": (
        "[Oh wait|Oh no], I forgot, {reason_i} on {day1}. I can't come.", "[Hmm|Sorry], {reason_i} that day, so I must say no.",
    ),
    "invite.yes_late": (
        "You know what? [I'll skip that|I'll change my plans] and come.", "[Wait|Well], I can [change that|move that]. I'm coming!",
    ),
    "invite.pity": (
        "[What a pity|That's a shame]. [Next time|Another time]!", "[Too bad|I understand]. Then I'll ask {C}.",
    ),
    "invite.good": (
        "[Wonderful|Great]!", "I'm [so|very] glad.", "[Perfect|Lovely], it will be fun.",
    ),
    # ---- a choice: A cannot decide, B advises
    "choice.open": (
        "{B}, I need something: {goal}. Should I take {opt1} or {opt2}?", "[Help me|I need your advice], {B}: {opt1} or {opt2}? It is for {goal}.",
        "I can't decide between {opt1} and {opt2}, {B}. It's about {goal}.",
    ),
    "choice.advise": (
        "[I'd take|Take] {better}, it is {good}.", "{Worse} is [too|very] {bad}. I'd choose {better}.", "[Definitely|Clearly] {better}. It's {good}.",
    ),
    "choice.lean": (
        "[Hmm|Really?], I [like|wanted] {worse}.", "But {worse} is [so nice|prettier].", "[I don't know|Well], I was thinking of {worse}.",
    ),
    "choice.push": (
        "[Believe me|Trust me], it's {bad}.", "It's {bad}, and the other one is {good}.",
    ),
    "choice.follow": (
        "[You're right|True]. {Better} then.", "[OK|Fine], I'll go for {better}.", "[Good point|I see], {better} it is.",
    ),
    "choice.stay": (
        "[Still|No], I'll take {worse}.", "[I know|Maybe], but my heart says {worse}.",
    ),
    "choice.when": (
        "I'll [buy|get] it on {day1}.", "[Then|So] I'll go to the shop on {day1}.",
    ),
    # ---- something lost: A lost it, B helps
    "lost.open": (
        "{B}, I can't find {thing}! [Have you seen it?|Any idea?]", "[Oh no|Help], {thing} is gone, {B}.", "[Hi|Hey] {B}, I lost {thing}.",
    ),
    "lost.ask": (
        "[When|Where] did you last have it?", "[Oh dear|Oh]. Where were you today?", "[Think|Calm down]. Where did you use it?",
    ),
    "lost.guess": (
        "I think [I left it|it was] {place1}.", "[Maybe|Probably] {place1}.", "[This morning|Yesterday] I had it {place1}.",
    ),
    "lost.found": (
        "[Wait|Look], here it is, {place2}!", "[Not there|No], I see it {place2}.", "[Good news|Hey], I found it {place2}.",
    ),
    "lost.not": (
        "I [looked|was] {place1}, it isn't there.", "[Sorry|No], there is nothing {place1}.",
    ),
    "lost.return": (
        "I'll [give it to you|bring it] on {day1}.", "You can [get it|pick it up] on {day1}.",
    ),
    "lost.plan": (
        "[Then|OK,] I'll have to {lost_do}.", "[So|Well], I'd better {lost_do}.",
    ),
    "lost.thanks": ("[Thank you|Thanks] so much!", "[What luck|Great], thanks!", "You [saved my day|are the best]!"),
}

HELD_OUT: dict[str, tuple[str, ...]] = {
    "appointment.open": ("{B}, it's {A}. Any chance to {do} {what}?", "I was told to ask you, {B}: I'd love to {do} {what}."),
    "appointment.propose": ("Well, there is {day1} at {time1}, {place1}. OK?", "My next free time is {time1} on {day1}, {place1}."),
    "appointment.accept": ("Very good, I'll take that.", "{day1} is just right for me."),
    "appointment.day_no": ("On {day1} {reason_i}. I would prefer {day2}.", "{day1}? No, {reason_i}. Do you have {day2}?"),
    "appointment.day_yes": ("Then we take {day2}.", "Good, so it's {day2} at the same time."),
    "appointment.day_back": ("Oh, I see that {day2} is gone. We need to go back to {day1}.", "No, sorry, {day2} is not possible now. {day1} or nothing."),
    "appointment.day_back_yes": ("{day1} it is, then. I'll find a way.", "Well, then I'll come on {day1}."),
    "appointment.time_no": ("I just see that {time1} won't work. Can you come at {time2}?", "No, not at {time1}. Let's make it {time2}."),
    "appointment.time_yes": ("I'm happy with {time2}.", "{time2}, got it."),
    "appointment.place_no": ("It won't work {place1}, so come and find me {place2}.", "Let's not meet {place1}. I prefer {place2}."),
    "appointment.place_yes": ("So {place2}, thank you.", "I like that better."),
    "extra.offer": ("May I offer you {extra}?", "What about {extra} on top?"),
    "extra.no": ("That's kind, but no.", "Please leave that out."),
    "extra.yes": ("I would love that.", "Great idea, yes."),
    "todo.ask": ("{Y}, I need you to {todo}.", "Is it OK for you to {todo}?"),
    "todo.ok": ("I can do that.", "You can count on me."),
    "todo.promise": ("By the way, I'll {todo} soon.", "I can {todo}, don't worry."),
    "close": ("Until then!", "Good, thank you very much."),
    "order.open": ("Is this {B}? It's {A}, I would like {item1}.", "{B}, please send me {item1}."),
    "order.where": ("With pleasure. Tell me the address.", "Good, to which address?"),
    "order.address": ("You will find me at {addr}.", "Send it to {addr}."),
    "order.switch": ("No, I've changed my mind: {item2}, not {item1}.", "Please forget {item1} and bring {item2}."),
    "order.switch_ok": ("So {item2} for you.", "That's fine, I'll write it down."),
    "order.out": ("There's no {item1} left. Can I send {item2}?", "We can't make {item1} today, only {item2}."),
    "order.out_yes": ("Good, send me {item2}.", "That's fine with me."),
    "order.out_no": ("Then leave it, I'll find another shop.", "I don't want that. No order today."),
    "order.when": ("We should be with you at {time}.", "Please be at home at {time}."),
    "order.pay": ("And I will pay {pay}.", "Let me pay {pay}."),
    "borrow.open": ("{B}, do you still have {item}? I'd need it {purpose}.", "I have no {item_bare}, {B}, and I plan {purpose}. Can you help?"),
    "borrow.lend": ("Take it, I don't need it before {day1}.", "With pleasure. Just return it on {day1}."),
    "borrow.sooner": ("No, not {day1}: {reason_i}, so bring it on {day2}.", "Please make it {day2}, {reason_i}."),
    "borrow.longer": ("Is it possible to return it on {day2}? {Reason_i}.", "I can't do {day1}, {reason_i}. I could do {day2}."),
    "borrow.day_ok": ("So we say {day2}.", "I can live with {day2}."),
    "borrow.refuse": ("That won't work, {excuse}. Why don't you ask {C}?", "Not from me, {excuse}. You could call {C}."),
    "borrow.ask_c": ("Then {C} it is.", "I'll write to {C}."),
    "borrow.instead": ("That one, no: {excuse}. Would {item2} help?", "Sadly {excuse}. All I have is {item2}."),
    "borrow.instead_yes": ("Yes, {item2} is fine for that.", "I can work with that."),
    "borrow.instead_no": ("No, it must be {item}. I'll find another way.", "That's kind, but {item2} is not enough."),
    "delay.open": ("It's about {event}, {B}: {cause_i}. Don't expect me on time.", "{B}, {cause_i}, and I'm not going to make it to {event} on time."),
    "delay.ask": ("What time do you think?", "Oh dear. Is it much?"),
    "delay.say": ("I'd say {min1} minutes.", "It will take {min1} minutes."),
    "delay.more": ("I was wrong, I need {min2} minutes.", "Now they say {min2} minutes instead of {min1}."),
    "delay.wait": ("Take your time, you will find me {place1}.", "That's OK. I'm going to wait {place1}."),
    "delay.start": ("Well, we have to begin now. You can find us {place1}.", "Then the others and I will start already."),
    "delay.move": ("Let's do it another day: {day2}, {time2}.", "I'd rather meet on {day2}, at {time2}."),
    "delay.ok": ("You are very kind.", "I feel bad about it, thanks."),
    "invite.open": ("{day1} is {event}, {B}. Are you free?", "I'm going to {event} on {day1}. Why don't you come too, {B}?"),
    "invite.where": ("What time, and which place?", "Maybe. Where do I have to be?"),
    "invite.details": ("Be {place1} at {time1}.", "{place1}, and it all starts at {time1}."),
    "invite.yes": ("I am free, so yes!", "I wouldn't miss it."),
    "invite.no": ("It won't work, {reason_i}.", "Sadly {reason_i}."),
    "invite.no_late": ("No, I can't after all, {reason_i}.", "I have to take that back: {reason_i}."),
    "invite.yes_late": ("Well, why not? I'll come after all.", "Forget what I said, I will be there."),
    "invite.pity": ("I'm sad to hear that.", "Then I might take {C}."),
    "invite.good": ("How nice!", "That makes me happy."),
    "choice.open": ("What do you think, {B}, {opt1} or {opt2}? I want {goal}.", "{B}, I've been thinking of {goal}. I've seen {opt1} and {opt2}."),
    "choice.advise": ("I would go for {better}, because it's {good}.", "Not {worse}, that's {bad}. Get {better}."),
    "choice.lean": ("I love {worse}, though.", "My first idea was {worse}."),
    "choice.push": ("But that is {bad}!", "Think about it: {bad}."),
    "choice.follow": ("So I'll get {better}.", "Then let it be {better}."),
    "choice.stay": ("Sorry, I want {worse}.", "I've decided: {worse}."),
    "choice.when": ("I have time for that on {day1}.", "On {day1} I will pick it up."),
    "lost.open": ("Did you see {thing} anywhere, {B}?", "{B}, I don't know where {thing} is."),
    "lost.ask": ("Where could it be?", "Do you remember where you had it?"),
    "lost.guess": ("It could be {place1}.", "I remember it was with me {place1}."),
    "lost.found": ("It's lying {place2}, I have it now!", "You're lucky, somebody found it {place2}."),
    "lost.not": ("They say it's not {place1}.", "I've just checked {place1}, nothing."),
    "lost.return": ("I can hand it to you on {day1}.", "Let's meet on {day1}, then you get it."),
    "lost.plan": ("Now I need to {lost_do}.", "It's no use, I'll {lost_do}."),
    "lost.thanks": ("I can't thank you enough.", "I owe you one."),
}
# fmt: on
