# ruff: noqa: E501
"""What can be said of a person, in how many wordings, and how vaguely.

{s} is the person, {p} the person's, {v} the value. `said`: wordings of the fact, each of which follows from every other. `vague`: what follows from the fact, whatever the
value, and gives nothing of it away. `denied`: what the fact contradicts. The last quarter of `said` and `vague` is held
out.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    kind: str
    said: str
    vague: str
    denied: str


RELATIONS = [
    Relation(
        "address",
        "{s} lives at {v}.|{p} home address is {v}.|{s} resides at {v}.|{s} currently lives at {v}.|The house of {s} stands at {v}."
        "|{s} can be found living at {v}.|One would send letters for {s} to {v}.|{v} is where {s} lives.|{s} has a home at {v}."
        "|{s} makes a home at {v}.|Post for {s} goes to {v}, the home address.|The residence of {s} is at {v}.",
        "{s} lives at a postal address.|{s} has a home somewhere.|{s} has a place to live.|{s} lives in a house or a flat."
        "|{s} has a residence with an address.|There is an address at which {s} lives.|{s} resides in a certain street.",
        "{s} does not live at {v}.|{s} has never lived at {v}.|{p} home is not at {v}.|It is not true that {s} resides at {v}.",
    ),
    Relation(
        "place",
        "{s} lives in {v}.|{s} resides in {v}.|{s} is based in {v}.|{p} home is in {v}.|{s} has settled in {v}.|{s} calls {v} home."
        "|{s} currently lives in {v}.|{v} is where {s} lives today.|{s} makes a home in {v}.|These days {s} is a resident of {v}.",
        "{s} lives in a town or city.|{s} has a home town.|{s} lives in some part of the world.|{s} lives somewhere with its own character."
        "|There is a place where {s} resides.",
        "{s} does not live in {v}.|{s} has never set foot in {v}.|{v} is not where {s} lives.",
    ),
    Relation(
        "birthplace",
        "{s} was born in {v}.|{p} birthplace is {v}.|{v} is the birthplace of {s}.|{s} came into the world in {v}.|{s} is a native of {v}."
        "|It was in {v} that {s} was born.|The city where {s} was born is {v}.|{s}, who was born in {v}, is an author.|{v} is where {s} was born.",
        "{s} was born in a city.|{s} was born somewhere.|{s} has a place of birth.|{s} was born in a place with a culture of its own.",
        "{s} was not born in {v}.|{v} is not the birthplace of {s}.|It is wrong that {s} was born in {v}.",
    ),
    Relation(
        "birthday",
        "{s} was born on {v}.|{p} date of birth is {v}.|{s} came into the world on {v}.|The birth of {s} took place on {v}."
        "|{s} has {v} as a birthday.|{p} birthday is {v}.|On {v}, {s} was born.|Records give {v} as {p} date of birth.",
        "{s} was born on a certain day.|{s} has a date of birth.|{s} was born at some time in the past.|{s} has a birthday like everyone else.",
        "{s} was not born on {v}.|{v} is not {p} date of birth.",
    ),
    Relation(
        "email",
        "{p} email address is {v}.|{s} can be contacted via email at {v}.|{s} can be reached at {v}.|To write to {s}, use {v}."
        "|The e-mail address of {s} is {v}.|Messages to {s} go to {v}.|{s} uses the email {v}.|You can email {s} at {v}.",
        "{s} has an email address.|{s} can be reached by electronic mail.|{s} can be contacted through an electronic messaging system."
        "|{s} uses email.|There is a way to write to {s} online.",
        "{p} email address is not {v}.|{s} has no email address.|{s} cannot be reached at {v}.",
    ),
    Relation(
        "phone",
        "{p} phone number is {v}.|{s} can be called on {v}.|The number to reach {s} is {v}.|{s} answers the phone at {v}."
        "|Call {v} to speak to {s}.|{v} is the telephone number of {s}.|To ring {s}, dial {v}.",
        "{s} has a phone number.|{s} can be reached by phone.|{s} owns a telephone.|One can call {s}.",
        "{p} phone number is not {v}.|{s} cannot be called on {v}.|{s} has no telephone.",
    ),
    Relation(
        "father",
        "{p} father is {v}.|{p} father works as {v}.|{s} is the child of {v} on the father's side.|The father of {s} is {v}."
        "|{p} father earns a living as {v}.|{s} has a father who is {v}.|{s} grew up with a father who was {v}.|By profession, {p} father is {v}.",
        "{p} father has a profession.|{p} father has a job.|{p} father works.|{p} father does some kind of work.|{s} has a father with an occupation.",
        "{p} father is not {v}.|{p} father has never worked as {v}.",
    ),
    Relation(
        "mother",
        "{p} mother is {v}.|{p} mother works as {v}.|The mother of {s} is {v}.|{p} mother earns a living as {v}.|{s} has a mother who is {v}."
        "|{s} grew up with a mother who was {v}.|{s} is the child of a mother who works as {v}.|By profession, {p} mother is {v}.",
        "{p} mother has a profession.|{p} mother has a job.|{p} mother works.|{s} has a mother with an occupation.|{p} mother does some kind of work.",
        "{p} mother is not {v}.|{p} mother has never worked as {v}.",
    ),
    Relation(
        "job",
        "{s} is {v}.|{s} works as {v}.|{s} earns a living as {v}.|By profession, {s} is {v}.|{s} has a job as {v}.|{p} occupation: {v}."
        "|{s} makes a living as {v}.|Professionally, {s} works as {v}.",
        "{s} has a profession.|{s} works for a living.|{s} has a job.|{s} has a career.|{s} does some kind of work.",
        "{s} is not {v}.|{s} has never worked as {v}.|{s} is out of work.",
    ),
    Relation(
        "genre",
        "{s} writes {v}.|{s} specialises in {v}.|{p} books are {v}.|{s} is known for writing {v}.|The genre of {s} is {v}."
        "|{s} mainly writes {v}.|{s} has made a name in {v}.|{v} is the genre {s} works in.|{s} is the author of {v}.",
        "{s} is a writer.|{s} writes books of some genre.|{s} writes.|{s} has a preferred kind of writing.|{s} has published in a genre.",
        "{s} does not write {v}.|{s} has never written {v}.|{s} has never written anything.",
    ),
    Relation(
        "book",
        'One of {p} books is "{v}".|{s} wrote "{v}".|{s} is the author of "{v}".|"{v}" was written by {s}.|"{v}" is a book by {s}.'
        '|{p} works include "{v}".|{s} published "{v}".|Among the titles {s} has written is "{v}".',
        "{s} has written a book.|{s} is an author.|{s} has published at least one work.|{s} has books in print.|{s} has a published title.",
        '{s} did not write "{v}".|"{v}" is not by {s}.|{s} has never published a book.',
    ),
    Relation(
        "award",
        "{s} won the {v}.|{s} has received the {v}.|{s} was honoured with the {v}.|The {v} went to {s}.|{s} was awarded the {v}."
        "|{s} is a winner of the {v}.|{s} holds the {v}.|The jury of the {v} chose {s}.",
        "{s} has won an award.|{s} has been honoured for something.|{s} has received recognition.|{s} was given a prize.|{s} has an award to show.",
        "{s} did not win the {v}.|{s} has never received the {v}.|{s} has never won anything.",
    ),
    Relation(
        "university",
        "{s} studied at the University of {v}.|{s} went to the University of {v}.|{s} was a student at the University of {v}."
        "|{s} attended the University of {v}.|{s} took a degree at the University of {v}.|{p} studies were at the University of {v}."
        "|The University of {v} is where {s} studied.|{s} read literature at the University of {v}.",
        "{s} went to university.|{s} was a student once.|{s} has studied.|{s} had a higher education.|{s} attended an institution of learning.",
        "{s} did not study at the University of {v}.|{s} never went to university.|{s} never attended the University of {v}.",
    ),
    Relation(
        "hobby",
        "{s} enjoys {v}.|{s} loves {v}.|{p} hobby is {v}.|In spare hours {s} likes {v}.|{s} spends free time {v}.|{s} is fond of {v}."
        "|{v} is what {s} does for pleasure.|{s} relaxes by {v}.",
        "{s} has a hobby.|{s} has interests beyond work.|{s} has a pastime.|{s} does something for pleasure.",
        "{s} does not enjoy {v}.|{s} hates {v}.|{s} has no hobbies.",
    ),
    Relation(
        "language",
        "{s} speaks {v}.|{s} is fluent in {v}.|{p} mother tongue is {v}.|{s} grew up speaking {v}.|At home {s} speaks {v}."
        "|{v} is the language {s} speaks.|{s} talks with family in {v}.",
        "{s} speaks a language.|{s} can speak.|{s} talks with family in some language.",
        "{s} does not speak {v}.|{s} knows no {v}.|{s} speaks not a word of {v}.",
    ),
    Relation(
        "illness",
        "{s} has {v}.|{s} suffers from {v}.|{s} was diagnosed with {v}.|{s} lives with {v}.|{s} is being treated for {v}."
        "|Doctors found that {s} has {v}.|{v} is what {s} suffers from.|{p} diagnosis is {v}.",
        "{s} has a health condition.|{s} has a medical matter to look after.|{s} has seen a doctor.|{s} is not entirely healthy.",
        "{s} does not have {v}.|{s} is in perfect health.|{s} has never had {v}.",
    ),
    Relation(
        "children",
        "{s} has {v} children.|{s} is the parent of {v} children.|{s} is raising {v} children.|There are {v} children in {p} family."
        "|{s} has brought up {v} children.|{p} children are {v} in number.",
        "{s} has children.|{s} is a parent.|{s} has a family.",
        "{s} has no children.|{s} is childless.|{s} does not have {v} children.",
    ),
    Relation(
        "salary",
        "{s} earns {v} dollars a year.|{p} salary is {v} dollars.|{s} is paid {v} dollars a year.|{s} makes {v} dollars per year."
        "|{p} yearly income is {v} dollars.|Each year {s} takes home {v} dollars.",
        "{s} earns money.|{s} has an income.|{s} is paid for the work.|{s} draws a salary.",
        "{s} does not earn {v} dollars a year.|{s} works without pay.|{s} has no income.",
    ),
    Relation(
        "wedding",
        "{s} married in {v}.|{s} got married in {v}.|The wedding of {s} was in {v}.|{s} has been married since {v}.|In {v}, {s} married."
        "|{s} tied the knot in {v}.|{p} marriage dates from {v}.",
        "{s} is or was married.|{s} has had a wedding.|{s} got married at some time.|{s} has been married.",
        "{s} did not marry in {v}.|{s} has never married.|{s} is single and always was.",
    ),
    Relation(
        "account",
        "{p} account number is {v}.|{s} has the bank account {v}.|{s} banks under the number {v}.|The account of {s} is {v}."
        "|Money for {s} goes to account {v}.|{s} holds account {v}.",
        "{s} has a bank account.|{s} is the customer of a bank.|{s} has an account somewhere.|{s} can receive transfers.",
        "{p} account number is not {v}.|{s} has no bank account.|{s} does not hold account {v}.",
    ),
    Relation(
        "pet",
        "{s} keeps {v}.|{s} has {v} at home.|{s} owns {v}.|{s} shares a home with {v}.|{s} looks after {v}.|At home {s} has {v} for company.",
        "{s} keeps an animal.|{s} has a pet.|{s} likes animals enough to keep one.|There is an animal in {p} home.",
        "{s} does not keep {v}.|{s} has no pets.|{s} has never owned an animal.",
    ),
    Relation(
        "name",
        "The full name of the author is {v}.|The author in question is {v}.|The writer is called {v}.|The author's name is {v}.|{v} is the author."
        "|The person described is {v}.|The name of this writer is {v}.",
        "The author has a name.|The writer is known by name.|The author is a person.|There is a writer.",
        "The author is not {v}.|The author's name is not {v}.|{v} is not the writer in question.",
    ),
]
